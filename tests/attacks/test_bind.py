# ruff: noqa: NPY002 - the legacy generator is the one that ART draws from
import copy
import random

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_oat import PGD, OperatingPoint
from art_oat.attacks import ByLam, Rows, bind, draw, drawing_for
from tests.conftest import make_classifier
from tests.networks import WIDTHS, images, labels

EPS, EPS_STEP, NB_STEPS = 0.2, 0.05, 4
LAM = torch.tensor([1.0, 0.1, 0.3, 0.1, 1.0, 0.3, 0.1, 0.4])


def data(classifier):
    x = images(dtype=torch.float32)
    return x, labels()


def by_hand(classifier, x, y, lam=LAM, width=1.0):
    """Attack every sample alone, on the pinned network of its lam, by steps written out here."""
    result = []
    for sample, label, value in zip(x, y, lam.tolist(), strict=True):
        network, start = classifier.at(value, width).as_module(), sample.unsqueeze(0)
        x_adv = start
        for _ in range(NB_STEPS):
            x_adv = x_adv.detach().requires_grad_()
            loss = nn.functional.cross_entropy(network(x_adv), label.unsqueeze(0))
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = start + (x_adv + EPS_STEP * gradient.sign() - start).clamp(-EPS, EPS)
            x_adv = x_adv.clamp(0, 1).detach()
        result.append(x_adv)
    return torch.cat(result)


def own(classifier):
    return PGD(EPS, EPS_STEP, NB_STEPS, has_random_start=False)


def from_torchattacks(classifier):
    module = classifier.at(1.0).as_module()
    return torchattacks.PGD(module, eps=EPS, alpha=EPS_STEP, steps=NB_STEPS, random_start=False)


def from_art(classifier):
    return ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS_STEP, max_iter=NB_STEPS, batch_size=2)


def from_art_at_a_point(classifier):
    return ProjectedGradientDescent(classifier.at(0.3), eps=EPS, eps_step=EPS_STEP, max_iter=NB_STEPS)


def a_callable(classifier):
    def attack(network, x, y):
        return PGD(EPS, EPS_STEP, NB_STEPS, has_random_start=False)(network, x, y, clip_values=(0, 1))

    return attack


@pytest.mark.parametrize("make", [own, from_torchattacks, from_art, from_art_at_a_point, a_callable])
@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_pgd_from_anywhere_is_pgd_at_the_lam_of_each_sample_and_the_width_that_is_asked_for(make, heads):
    classifier = make_classifier(widths=WIDTHS, heads=heads)
    x, y = data(classifier)
    bound = bind(make(classifier), classifier)
    results = {width: bound(x, y, LAM, width=width) for width in WIDTHS}
    for width, x_adv in results.items():
        # float32 sums in another order may turn the sign of a gradient that is almost zero
        assert ((x_adv - by_hand(classifier, x, y, width=width)).abs() < 1e-5).float().mean() > 0.98
        others = [results[other] for other in WIDTHS if other != width]
        assert all(((x_adv - other).abs() > EPS / 10).float().mean() > 0.05 for other in others)
    torch.testing.assert_close(bound(x, y, LAM), results[1.0])


@pytest.mark.parametrize("make", [own, from_torchattacks, from_art, a_callable])
def test_an_attack_at_an_operating_point_is_bound_to_its_lam_and_its_width(make):
    classifier = make_classifier(widths=WIDTHS)
    x, y = data(classifier)
    attack = bind(make(classifier), classifier).at(OperatingPoint(0.3, 0.5))
    expected = by_hand(classifier, x, y, torch.full((8,), 0.3), 0.5)
    assert ((attack(nn.Identity(), x, y) - expected).abs() < 1e-5).float().mean() > 0.98


@pytest.mark.parametrize("make", [own, from_torchattacks, from_art, a_callable])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_bound_attack_follows_training(make, width):
    classifier = make_classifier(widths=(width, 1.0) if width < 1 else (1.0,))
    x, y = data(classifier)
    bound = bind(make(classifier), classifier)
    bound(x, y, LAM, width=width)
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.mul_(-1)
    x_adv = bound(x, y, LAM, width=width)
    assert ((x_adv - by_hand(classifier, x, y, width=width)).abs() < 1e-5).float().mean() > 0.98


@pytest.mark.parametrize(
    "make",
    [
        lambda c: PGD(EPS),
        lambda c: torchattacks.PGD(c.at(1.0).as_module(), eps=EPS),
        lambda c: torchattacks.SPSA(c.at(1.0).as_module(), eps=EPS, nb_iter=1, nb_sample=2),
        lambda c: ProjectedGradientDescent(c, eps=EPS, eps_step=EPS_STEP, max_iter=2, num_random_init=1),
        lambda c: SquareAttack(c, eps=EPS, max_iter=3),
        lambda c: lambda network, x, y: x * torch.rand_like(x) * float(np.random.rand()) * random.random(),
    ],
)
def test_a_generator_decides_all_that_is_random_and_the_global_ones_are_spared(make):
    classifier = make_classifier()
    x, y = data(classifier)
    bound = bind(make(classifier), classifier)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, again, other = (bound(x, y, LAM, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_nested_attacks_of_torchattacks_are_bound_too_and_the_given_one_is_not():
    classifier = make_classifier()
    module = classifier.at(1.0).as_module()
    attack = torchattacks.MultiAttack([torchattacks.FGSM(module, eps=EPS), torchattacks.PGD(module, eps=EPS, steps=2)])
    seen = []
    x, y = data(classifier)
    with Watched(classifier, seen):
        bind(attack, classifier)(x, y, torch.full((8,), 0.3))
    assert set(seen) == {0.3}
    assert attack.model is module
    assert all(nested.model is module for nested in attack._attacks.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda c: AutoProjectedGradientDescent(c, eps=EPS, eps_step=0.1, max_iter=2, nb_random_init=1),
        lambda c: AutoAttack(
            c, eps=EPS, attacks=[FastGradientMethod(c, eps=EPS), SquareAttack(c, eps=EPS, max_iter=2)]
        ),
    ],
)
def test_estimators_that_an_art_attack_makes_are_bound_too_and_the_given_ones_are_not(make, monkeypatch):
    classifier = make_classifier()
    attack = make(classifier)
    estimator, state = attack.estimator, copy.copy(vars(attack))
    monkeypatch.setattr(PyTorchClassifier, "save", _refuse_to_write)
    seen: list[float] = []
    x, y = data(classifier)
    with Watched(classifier, seen):
        bind(attack, classifier)(x, y, torch.full((8,), 0.3))
    assert set(seen) == {0.3}
    assert attack.estimator is estimator
    assert vars(attack) == state


def _refuse_to_write(*args, **kwargs):
    raise AssertionError("nothing may be written to disk")


def test_each_group_meets_the_attack_of_its_lam_whichever_library_it_is_of():
    classifier = make_classifier()
    x, y = data(classifier)
    attacks = {0.1: own(classifier), 0.2: a_callable(classifier), 0.3: from_art(classifier)}
    far = PGD(2 * EPS, EPS, 2, has_random_start=False)
    bound = bind(ByLam({**attacks, 0.4: from_torchattacks(classifier), 1.0: far}), classifier)
    x_adv, is_far = bound(x, y, LAM), LAM == 1
    torch.testing.assert_close(x_adv[~is_far], by_hand(classifier, x, y)[~is_far], rtol=0, atol=1e-6)
    expected = bind(far, classifier)(x[is_far], y[is_far], LAM[is_far])
    torch.testing.assert_close(x_adv[is_far], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_attacks_by_lam_draw_for_some_samples_of_a_batch_what_they_draw_for_all(norm):
    classifier = make_classifier()
    x, y = data(classifier)
    bound = bind(ByLam({lam: PGD(EPS, norm=norm, nb_steps=1) for lam in (0.1, 0.2, 0.3, 0.4, 1.0)}), classifier)
    assert bound.draws_rows
    whole, some = bound(x, y, LAM, torch.Generator().manual_seed(0)), torch.tensor([1, 2, 5])
    with drawing_for(Rows(some, len(x))):
        part = bound(x[some], y[some], LAM[some], torch.Generator().manual_seed(0))
    torch.testing.assert_close(part, whole[some], rtol=0, atol=1e-6)


def test_an_attack_that_goes_on_with_a_part_of_its_samples_may_draw_for_these_alone():
    def attack(network, x, y):
        return torch.cat([x[:1], draw(x[1:], None)])

    classifier = make_classifier()
    x, y = data(classifier)
    with drawing_for(Rows(torch.arange(len(x)), 2 * len(x))):
        assert bind(attack, classifier)(x, y, LAM).shape == x.shape


class Watched:
    """Notes at which lam the plain networks of a classifier are called."""

    def __init__(self, classifier, seen):
        self.model, self.seen = classifier.model, seen

    def __enter__(self):
        self.handles = []
        for lam in self.model.lambdas:
            pinned = self.model.pinned(lam)
            note = lambda module, inputs, at=lam: self.seen.append(at)  # noqa: E731
            self.handles.append(pinned.register_forward_pre_hook(note))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def test_what_cannot_be_bound_is_refused_by_name():
    classifier, other = make_classifier(), make_classifier()
    module = classifier.at(1.0).as_module()
    by_label = torchattacks.PGD(module)
    by_label.set_mode_targeted_by_label(quiet=True)
    normalizing = torchattacks.PGD(module)
    normalizing.set_normalization_used([0.5], [0.2])
    for attack, message in [
        (FastGradientMethod(classifier, targeted=True), "must lead away from the labels, got one with targeted=True"),
        (FastGradientMethod(other), r"made for the classifier that is trained.*Write FastGradientMethod\(classifier"),
        (normalizing, "must take images in .0, 1., got one with set_normalization_used"),
        (by_label, r"must lead away from the labels, got one in the mode targeted\(label\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            bind(attack, classifier)
    with pytest.raises(ValueError, match="needs the classifier's clip_values, got None"):
        bind(torchattacks.PGD(module), make_classifier(clip_values=None))


@pytest.mark.parametrize("attack", ["pgd", 3, nn.ReLU(), PGD])
def test_what_is_no_attack_is_refused(attack):
    with pytest.raises(TypeError, match="attack must be an attack of art_oat, ART or torchattacks, or a callable"):
        bind(attack, make_classifier())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda network, x, y: x[1:], r"one attacked input for each input, \[\d, 1, 6, 6\], got \[\d, 1, 6, 6\]"),
        (lambda network, x, y: x + 1, r"must stay within the clip_values"),
        (lambda network, x, y: x * float("nan"), "must return finite inputs"),
    ],
)
def test_an_attack_that_loses_samples_or_leaves_the_range_or_the_numbers_is_refused(attack, message):
    classifier = make_classifier()
    with pytest.raises(RuntimeError, match=message):
        bind(attack, classifier)(*data(classifier), LAM)


@pytest.mark.parametrize("attack", [torchattacks.FGSM(nn.Identity(), eps=0.1), lambda network, x, y: x])
def test_only_what_attacks_whole_batches_is_compiled(attack):
    message = "compiles needs an attack that takes the samples of all lams at once, such as PGD and NFGSM, got"
    with pytest.raises(ValueError, match=message):
        bind(attack, make_classifier(), compiles=True)


@pytest.mark.slow
def test_an_attack_compiled_by_torch_finds_what_it_finds_uncompiled():
    classifier = make_classifier(widths=WIDTHS)
    x, y = data(classifier)
    plain, fast = (bind(PGD(EPS, EPS_STEP, NB_STEPS), classifier, compiles=compiles) for compiles in (False, True))
    for nb_samples, width in ((8, WIDTHS[0]), (5, WIDTHS[0]), (8, WIDTHS[-1])):
        given = x[:nb_samples], y[:nb_samples], LAM[:nb_samples]
        expected = plain(*given, torch.Generator().manual_seed(0), width=width)
        found = fast(*given, torch.Generator().manual_seed(0), width=width)
        torch.testing.assert_close(found, expected)
