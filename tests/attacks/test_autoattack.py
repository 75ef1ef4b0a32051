import logging
import re
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import AutoAttack
from art_oat.attacks import bind, distance, is_correct, within_ball
from art_oat.evaluation import AutoAttackWarning
from tests.evaluation.subjects import Linear, affine_classifier, exact_radii, linear_data, telling_eps
from tests.networks import images, labels


def attacked(attack, network, x, y, seed=0):
    return attack(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow(seconds=17)
def test_its_parts_one_after_the_other_are_autoattack():
    network, (x, y) = Linear(), linear_data()
    eps = telling_eps(exact_radii(network, x, y, "Linf"))
    whole = attacked(AutoAttack(eps), network, x, y)
    in_turn, standing = x.clone(), torch.arange(len(x))
    parts = AutoAttack(eps).in_parts()
    assert [*parts] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for part in parts.values():
        in_turn[standing] = attacked(part, network, x[standing], y[standing])
        standing = standing[is_correct(network, in_turn[standing], y[standing])]
    assert 0 < len(standing) < len(x)
    # the same draws give the same examples, up to the rounding of a product over fewer rows
    torch.testing.assert_close(in_turn, whole)
    assert standing.tolist() == is_correct(network, whole, y).nonzero().flatten().tolist()


@pytest.mark.parametrize("clip_values", [(-1, 1), (np.zeros((1, 6, 6)), np.full((1, 6, 6), 255.0))])
def test_autoattack_finds_the_same_in_other_units(clip_values):
    low, high = (float(np.max(value)) for value in clip_values)
    (x, y), span = linear_data(), high - low
    unit = telling_eps(exact_radii(Linear(), x, y, "Linf"))
    masks = []
    for network, inputs, eps, bounds in (
        (Linear(), x, unit, (0, 1)),
        (Linear(low=low, span=span), x * span + low, unit * span, clip_values),
    ):
        generator = torch.Generator().manual_seed(0)
        # a share of AutoAttack: what is shown is the change of units
        x_adv = AutoAttack(eps, parts=("apgd-ce", "apgd-t"))(
            network, inputs, y, clip_values=bounds, generator=generator
        )
        assert distance(inputs, x_adv, "Linf").max() <= eps * (1 + 1e-4)
        masks.append(is_correct(network, x_adv, y))
    assert torch.equal(*masks)
    assert 0 < int(masks[0].sum()) < len(x)


def test_autoattack_is_deterministic_from_its_generator_and_spares_the_global_one():
    (x, y), attack = linear_data(4), AutoAttack(0.01, parts=("apgd-ce", "apgd-t"))
    state = torch.get_rng_state()
    first, second = (attacked(attack, Linear(), x, y, seed=4) for _ in "12")
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_autoattack_is_bound_to_the_lam_of_each_sample():
    classifier, eps = affine_classifier(), 0.02
    x, lam = linear_data()[0], torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    networks = {value: classifier.at(value).as_module() for value in (0.0, 1.0)}
    y = networks[1.0](x).argmax(dim=1)
    x_adv = bind(AutoAttack(eps, parts=("apgd-ce", "apgd-t")), classifier)(x, y, lam)
    for value, network in networks.items():
        group = lam == value
        stands = is_correct(network, x[group], y[group]) & (exact_radii(network, x[group], y[group], "Linf") > eps)
        assert torch.equal(is_correct(network, x_adv[group], y[group]), stands)


@pytest.mark.parametrize("clip_values", [(0, 255), (-0.4242, 2.8215)])
def test_rounding_of_the_range_is_no_step_out_of_a_small_ball(clip_values):
    """What AutoAttack leaves alone went to [0, 1] and back, in float32."""
    low, high = clip_values
    x = low + (high - low) * linear_data()[0]
    attack = within_ball(AutoAttack(1e-4, parts=("apgd-ce",)), 1e-4, "Linf")
    network = Linear(low=low, span=high - low)
    x_adv = attack(network, x, network(x).argmax(dim=1), clip_values=clip_values)
    assert distance(x, x_adv, "Linf").max() <= 1e-4 + 1e-6 * max(high - low, high)


def test_autoattack_puts_the_trace_function_back():
    before = sys.gettrace()

    def trace(frame, event, argument):
        return None

    sys.settrace(trace)
    try:
        attacked(AutoAttack(0.02, parts=("apgd-ce",)), Linear(), *linear_data(4))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_autoattack_leaves_the_gradients_of_a_network_in_training_as_they_were():
    network, (x, y) = Linear(), linear_data(4)
    network.bias.requires_grad_(False)
    network.weight.grad = torch.ones_like(network.weight)
    attacked(AutoAttack(0.001, parts=("fab-t",)), network, x, y)
    assert bool((network.weight.grad == 1).all())
    assert [it.requires_grad for it in network.parameters()] == [True, False]
    assert network.bias.grad is None


@pytest.mark.parametrize("nb_classes", [4, 6])
def test_with_few_classes_autoattack_targets_all_others_without_a_warning(nb_classes, caplog):
    network, (x, _) = Linear(nb_classes), linear_data(4)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        x_adv = attacked(AutoAttack(0.2), network, x, network(x).argmax(dim=1))
    assert caplog.records == []
    assert not is_correct(network, x_adv, network(x).argmax(dim=1)).any()


class Noisy(Linear):
    def forward(self, x):
        scores = super().forward(x)
        return scores + 0.1 * torch.randn_like(scores)


class Probabilities(Linear):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Stairs(Linear):
    """Sees inputs in steps, whose gradient is zero."""

    def forward(self, x):
        return super().forward((5 * x).round() / 5)


UNRELIABLE = [(Noisy, "randomized defense"), (Probabilities, "probability distribution"), (Stairs, "zero gradient")]


@pytest.mark.parametrize(("kind", "message"), UNRELIABLE)
def test_what_autoattack_warns_of_is_issued_as_a_warning(kind, message):
    network, (x, _) = kind(), linear_data(4)
    with pytest.warns(AutoAttackWarning) as caught:
        attacked(AutoAttack(0.01, parts=("apgd-t",)), network, x, network(x).argmax(dim=1))
    texts = [str(warning.message) for warning in caught]
    assert all(message in text for text in texts)
    assert not any("flags_doc" in text for text in texts)


def test_one_who_asks_to_be_told_gets_what_autoattack_warns_of_and_no_warning():
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attacked(AutoAttack(0.01, parts=("apgd-ce",), notify=told.append), Probabilities(), *linear_data(4))
    assert ["probability distribution" in text for text in told] == [True]


@pytest.mark.parametrize(
    ("nb_classes", "clip_values", "message"),
    [
        (3, (0, 1), "at least 4 classes, got 3. Use PGD"),
        (5, None, r"needs the classifier's clip_values"),
        (5, (np.zeros((1, 6, 6)), np.linspace(1, 2, 36).reshape(1, 6, 6)), "same clip_values for every feature"),
    ],
)
def test_networks_and_ranges_that_autoattack_cannot_attack_are_refused(nb_classes, clip_values, message):
    x, _ = linear_data(4)
    with pytest.raises(ValueError, match=re.escape(message)):
        AutoAttack(0.02)(Linear(nb_classes), x, torch.zeros(4, dtype=torch.long), clip_values=clip_values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0}, "eps"),
        ({"norm": "L0"}, "norm"),
        ({"version": "rand"}, "version"),
        ({"parts": ()}, "parts"),
        ({"parts": ("apgd-dlr",)}, "parts"),
        ({"parts": ("square", "guess"), "version": "plus"}, "parts"),
    ],
)
def test_faulty_arguments_of_autoattack_are_refused(arguments, message):
    with pytest.raises(ValueError, match=rf"{message} must be"):
        AutoAttack(**{"eps": 0.1, **arguments})


def test_the_authors_own_package_is_used_where_it_is_installed_and_its_warnings_are_shown(classifier, monkeypatch):
    asked, told = {}, []

    class Engine:
        def __init__(self, model, **options):
            self.model, self.apgd, self.apgd_targeted, self.fab = (model, *(SimpleNamespace() for _ in range(3)))
            self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 9
            asked.update(options)

        def run_standard_evaluation(self, x, y, bs):
            asked.update(parts=self.attacks_to_run, bs=bs)
            asked["nb_targets"] = (self.fab.n_target_classes, self.apgd_targeted.n_target_classes)
            self.logger.log("initial accuracy: 87.50%")
            self.logger.log("Warning: it seems to be a randomized defense! See flags_doc.md for details.")
            self.apgd.logger.log("Warning: there are 3 points with zero gradient! See flags_doc.md for details.")
            return x + asked["eps"]

    Engine.__module__ = "autoattack.autoattack"
    monkeypatch.setitem(sys.modules, "autoattack", SimpleNamespace(AutoAttack=Engine))
    monkeypatch.setitem(sys.modules, "autoattack.checks", SimpleNamespace(funcs={"grad": 3}))
    x, network = images(dtype=torch.float32), classifier.at(1.0).as_module()
    attack = AutoAttack(0.2, "L2", parts=("apgd-ce", "square"), notify=told.append)
    x_adv = attack(network, x, labels(), clip_values=(-1, 1))
    torch.testing.assert_close(x_adv, x + 0.2)  # the engine knows [0, 1] only, and half the radius there
    assert (asked["eps"], asked["norm"], asked["version"], asked["bs"]) == (0.1, "L2", "standard", len(x))
    assert (asked["parts"], asked["nb_targets"]) == (["apgd-ce", "square"], (4, 4))
    assert told == ["it seems to be a randomized defense!", "there are 3 points with zero gradient!"]


@pytest.mark.parametrize("part", AutoAttack(0.1).in_parts())
def test_images_whose_channels_lie_last_in_memory_are_attacked_as_any_others(part):
    x, found, network = torch.rand(4, 3, 8, 8), [], nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    y = network(x).argmax(dim=1)  # AutoAttack looks on at those that are right
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = x.contiguous(memory_format=layout)
        found.append(attacked(AutoAttack(0.3, parts=(part,)), network, laid_out, y))  # soon done: all are broken
    torch.testing.assert_close(found[0], found[1])
    assert not is_correct(network, found[0], y).any()
