import copy
import threading
from contextlib import nullcontext
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import PGD, OATClassifier, OATTrainer, WeightPerturbation
from art_oat.fast import FastPath, is_fast, without_fast_paths
from tests.networks import SLIMMABLE, WIDTHS, Residual, images, labels, shaken
from tests.pairs import parametrize_in_pairs

PATHS = get_args(FastPath)


def switched_on() -> set[str]:
    return {path for path in PATHS if is_fast(path)}


def test_every_fast_path_is_on_unless_it_is_switched_off():
    assert switched_on() == set(PATHS)
    with without_fast_paths():
        assert switched_on() == set()
    assert switched_on() == set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_one_path_is_switched_off_alone(path):
    with without_fast_paths(path):
        assert switched_on() == set(PATHS) - {path}


def test_blocks_add_up_and_each_restores_what_was_before_it():
    with without_fast_paths("affine"):
        with without_fast_paths("split", "terms"):
            others = set(PATHS) - {"affine", "split", "terms"}
            assert switched_on() == others
            with without_fast_paths("affine"):
                assert switched_on() == others
            with without_fast_paths():
                assert switched_on() == set()
            assert switched_on() == others
        assert switched_on() == set(PATHS) - {"affine"}
    assert switched_on() == set(PATHS)


def test_an_error_restores_what_was_before_too():
    with without_fast_paths("affine"):
        with pytest.raises(OSError, match="broken"), without_fast_paths():
            raise OSError("broken")
        assert switched_on() == set(PATHS) - {"affine"}
    assert switched_on() == set(PATHS)


def test_unknown_paths_are_refused_with_all_that_there_are_and_switch_nothing_off():
    with (
        pytest.raises(ValueError, match="fast paths must be among") as caught,
        without_fast_paths("film", "affine", "all"),
    ):
        pass
    message = str(caught.value)
    assert all(repr(path) in message for path in (*PATHS, "film", "all"))
    assert switched_on() == set(PATHS)


def in_a_thread(action) -> object:
    results = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    thread.join()
    return results[0]


def test_a_block_holds_in_its_own_thread_alone():
    with without_fast_paths():
        assert in_a_thread(switched_on) == set(PATHS)
    is_within, is_done = threading.Event(), threading.Event()

    def switch_off():
        with without_fast_paths():
            is_within.set()
            is_done.wait(timeout=10)

    other = threading.Thread(target=switch_off)
    other.start()
    try:
        assert is_within.wait(timeout=10)
        assert switched_on() == set(PATHS)
    finally:
        is_done.set()
        other.join()


MANY = (0.0, 0.3, 0.0, 1.0, 0.1, 0.25, 0.0, 0.4)


@parametrize_in_pairs(make=SLIMMABLE, statistics=["dual", "shared"], width=[0.5, 1.0])
def test_a_network_answers_and_learns_with_fast_paths_as_without(make, statistics, width):
    model = shaken(make(), widths=WIDTHS, statistics=statistics).train()
    found = []
    for network, is_quick in ((model, True), (copy.deepcopy(model), False)):
        torch.manual_seed(0)  # dropout
        x = images().requires_grad_()
        with nullcontext() if is_quick else without_fast_paths():
            scores = network(x, torch.tensor(MANY, dtype=torch.float64), width)
            scores.square().sum().backward()
        gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        found.append((scores.detach(), x.grad, gradients, dict(network.named_buffers())))
    # the same arithmetic in another order
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0, None])
def test_a_plain_network_answers_with_fast_paths_as_without(width, lam):
    model = shaken(Residual(), widths=WIDTHS)
    network = model.live_network(width)
    network.set_lam(torch.tensor(MANY if lam is None else [lam], dtype=torch.float64))
    found = []
    for paths in (None, PATHS):
        x = images().requires_grad_()
        with nullcontext() if paths is None else without_fast_paths(*paths):
            scores = network(x)
        found.append((scores.detach(), *torch.autograd.grad(scores.square().sum(), x)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_an_attack_reaches_the_same_loss_with_fast_paths_as_without(norm, lam):
    network, x, y = shaken(Residual()).pinned(lam), images(64), labels(64)
    attack, found = PGD(eps=0.1, nb_steps=7, norm=norm), []
    for paths in ((), PATHS):
        generator = torch.Generator().manual_seed(0)
        with without_fast_paths(*paths) if paths else nullcontext():
            found.append(attack(network, x, y, clip_values=(0, 1), generator=generator))
    losses = [F.cross_entropy(network(x_adv), y, reduction="none") for x_adv in found]
    # where a gradient is 0 but for rounding, its sign may differ; such a pixel has no say in the loss
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)
    assert ((found[0] - found[1]).abs() < 1e-9).double().mean() > 0.99
    assert (losses[0] > F.cross_entropy(network(x), y, reduction="none")).double().mean() > 0.9


TRAININGS = {
    "plain": ({}, {}),
    "channels last": ({}, {}),
    "shared statistics": ({"statistics": "shared"}, {}),
    "all widths": ({"widths": WIDTHS, "heads": "per-width"}, {"width_sampling": "all", "distills": True}),
    "perturbed and averaged": ({}, {"weight_perturbation": WeightPerturbation(0.05), "ema": 0.5}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_three_steps_of_training_give_the_same_weights_with_fast_paths_as_without(name):
    conversion, method = TRAININGS[name]
    found = []
    for paths in ((), PATHS):
        torch.manual_seed(0)
        model = shaken(Residual(), **conversion)
        model = model.to(memory_format=torch.channels_last) if name == "channels last" else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
        before = copy.deepcopy(model.state_dict())
        trainer = OATTrainer(classifier, PGD(eps=0.1, nb_steps=3), **method)
        with without_fast_paths(*paths) if paths else nullcontext():
            trainer.fit(images(30).numpy(), labels(30).numpy(), batch_size=10, nb_epochs=1, verbose=False)
        found.append((model.state_dict(), trainer.history[0].loss))
        assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    # rounding of 1e-16, which three steps carry on; a pixel whose gradient is all rounding has no say
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
