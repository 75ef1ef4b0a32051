import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from art_oat import fold
from art_oat.contexts import borrowed_generators
from art_oat.data.dataset import Dataset, Split
from art_oat.experiment.baselines import BASELINES, recipe_named
from art_oat.experiment.build import trainer_for
from art_oat.experiment.options import recipe_from
from art_oat.frontier import MeasuredPoint
from art_oat.report.commands import recipe_words
from art_oat.training import METHODS
from art_oat.training.records import mean_area
from tests.experiment.test_options import given

NB, EPS, NB_STEPS, STEP = 24, 0.2, 3, 0.06


@functools.cache
def data() -> Dataset:
    generator = np.random.default_rng(0)
    part = Split(generator.random((NB, 1, 8, 8)), np.arange(NB) % 4)
    return Dataset(part, part, part)


def recipe_of(name: str, **method: object):
    settings = {"data": "images.npz", "network": "small-4-6", "batch_size": NB, "augmentation": "none"}
    method = {"attack": f"pgd-{NB_STEPS}", "eps": EPS, "eps_step": STEP, **method}
    return recipe_named(name, settings, method)


def pgd(network, x, start, objective):
    x_adv = start
    for _ in range(NB_STEPS):
        x_adv = x_adv.clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(objective(network(x_adv)), x_adv)
        x_adv = (x_adv + STEP * gradient.sign()).clamp(x - EPS, x + EPS).detach()
    return x_adv.clamp(0, 1)


def divergence(logits, logits_adv):
    return F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="batchmean")


def textbook_step(name, network, optimizer, x, y, generator):
    """One step of the published loop: attack in evaluation mode, loss in training mode."""
    network.eval()
    if name == "trades":
        start = x + 0.001 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        clean = network(x).detach()
        x_adv = pgd(network, x, start, lambda logits: divergence(clean, logits))
    elif name == "pgd-at":
        start = x + EPS * (2 * torch.rand(x.shape, dtype=x.dtype, generator=generator) - 1)
        x_adv = pgd(network, x, start, lambda logits: F.cross_entropy(logits, y))
    network.train()
    if name == "natural":
        loss = F.cross_entropy(network(x), y)
    elif name == "pgd-at":
        loss = F.cross_entropy(network(x_adv), y)
    else:
        logits = network(x)
        loss = F.cross_entropy(logits, y) + 6 * divergence(logits, network(x_adv))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["natural", "pgd-at", "trades"])
def test_a_step_of_a_baseline_is_that_of_the_textbook_on_the_plain_network(name):
    recipe = recipe_of(name)
    trainer = trainer_for(recipe, data(), device_type="cpu")
    trainer.get_classifier().model.double()  # the sign of a gradient near 0 is a matter of rounding
    trainer.fit(*data().train, batch_size=NB, nb_epochs=1, verbose=False)
    with borrowed_generators(seed=recipe.seed):
        network = recipe.architecture(data()).build().double()
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    order = torch.randperm(NB, generator=generator)
    order = order[torch.randperm(NB, generator=generator)]
    if name != "natural":
        torch.rand((), dtype=torch.float64, generator=generator)  # where lams begin
    x, y = (torch.from_numpy(part)[order] for part in data().train)
    textbook_step(name, network, recipe.optimizer_for(network), x, y, generator)
    plain = fold(trainer.get_classifier().model, lam=BASELINES[name].lam)
    torch.testing.assert_close(plain.state_dict(), network.state_dict())


def test_weights_of_awp_are_moved_by_a_hundredth_of_their_size_and_otherwise_trained_as_pgd_at():
    awp, usual = recipe_of("awp"), recipe_of("pgd-at")
    assert awp.method.weight_perturbation == 0.01
    assert awp.changed(weight_perturbation=None) == usual


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_the_numbers_of_the_plain_network_and_the_attack_of_the_dial(name):
    recipe = recipe_of(name)
    model = trainer_for(recipe, data()).get_classifier().model
    nb_plain = sum(tensor.numel() for tensor in recipe.architecture(data()).build().state_dict().values())
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == nb_plain + len(recipe.lambdas)
    assert recipe_named(name, {"data": "digits"}, {}).method.attack == METHODS["dial"]().attack


def test_of_natural_training_the_most_accurate_epoch_is_the_best_however_robust_another_is():
    epochs = [MeasuredPoint(0.0, 1.0, *shares, 100, 100) for shares in ((0.9, 0.0), (0.5, 0.3))]
    assert mean_area(epochs[:1], 10) == pytest.approx(0.9 - 0.1)
    assert mean_area(epochs[:1], 10) > mean_area(epochs[1:], 10)


@pytest.mark.parametrize("name", BASELINES)
def test_the_command_line_names_a_baseline_with_options_of_its_training(name):
    recipe = recipe_from(name, given(data="digits", eps=0.1, ema=0.9))
    assert recipe == recipe_named(name, {"data": "digits"}, {"eps": 0.1, "ema": 0.9})


@pytest.mark.parametrize("name", BASELINES)
def test_the_page_of_a_run_tells_the_name_of_its_baseline(name):
    assert recipe_words(recipe_named(name, {"data": "digits"}, {"ema": 0.9})) == ["--recipe", name, "--ema", "0.9"]


@pytest.mark.parametrize(
    ("name", "recipe", "method", "refused"),
    [
        ("pgd-at", {"lambdas": (0.0, 1.0)}, {}, "lambdas must be left out"),
        ("trades", {"statistics": "shared"}, {"loss": "oat"}, "statistics must be left out.*loss must be left out"),
        ("natural", {}, {"weight_perturbation": 0.01}, "weight_perturbation must be left out"),
        ("best", {}, {}, r"recipe must be one of \('dial', .*'natural'.*got 'best'"),
    ],
)
def test_a_baseline_is_not_made_into_something_else(name, recipe, method, refused):
    with pytest.raises(ValueError, match=refused):
        recipe_named(name, {"data": "digits", **recipe}, method)
