import logging
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, AutoAttack
from art_oat.attack import distance, is_correct, withstand
from art_oat.evaluation.robustness import attack_by_name, display_name, within_ball
from tests.networks import images, labels

NB_CLASSES = 5


class Linear(nn.Module):
    """Scores ``W x + b``: its exact robust accuracy is closed-form."""

    def __init__(self, nb_classes: int = NB_CLASSES, low: float = 0.0, span: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(nb_classes, 36, generator=generator))
        self.bias = nn.Parameter(-self.weight.detach().sum(dim=1) / 2)
        self.low, self.span = low, span

    def forward(self, x):
        return ((x - self.low) / self.span).flatten(1) @ self.weight.T + self.bias


def data(nb_samples: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    x = 0.3 + 0.4 * torch.rand(nb_samples, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return x, Linear()(x).argmax(dim=1)


def exact_robust(network: Linear, x: torch.Tensor, y: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """Margin over every other class, over the dual norm of the difference of weights (no pixel reaches a bound)."""
    scores = network(x)
    margins = scores.gather(1, y[:, None]) - scores
    gaps = network.weight[y][:, None] - network.weight[None]
    dual = gaps.abs().sum(dim=2) if norm == "Linf" else gaps.norm(dim=2)
    return ((margins > eps * dual) | (dual == 0)).all(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.01), ("L2", 0.05)])
def test_on_a_linear_network_autoattack_finds_the_exact_robust_accuracy(norm, eps):
    network, (x, y) = Linear(), data()
    exact = exact_robust(network, x, y, eps, norm)
    assert 0.2 < exact.double().mean() < 0.8
    generator = torch.Generator().manual_seed(0)
    _, robust = withstand(network, x, y, AutoAttack(eps, norm), clip_values=(0, 1), generator=generator)
    assert (robust | ~exact).all()
    assert (robust.double().mean() - exact.double().mean()).abs() <= 0.01
    _, robust_to_pgd = withstand(network, x, y, attack_by_name("pgd-20", eps, norm), clip_values=(0, 1))
    assert (robust_to_pgd | ~exact).all()


@pytest.mark.slow
@pytest.mark.parametrize("clip_values", [(-1, 1), (np.zeros((1, 6, 6)), np.full((1, 6, 6), 255.0))])
def test_autoattack_finds_the_same_in_other_units(clip_values):
    low, high = (float(np.max(value)) for value in clip_values)
    (x, y), span = data(8), high - low
    masks = []
    for network, inputs, eps, bounds in (
        (Linear(), x, 0.02, (0, 1)),
        (Linear(low=low, span=span), x * span + low, 0.02 * span, clip_values),
    ):
        generator = torch.Generator().manual_seed(0)
        x_adv = AutoAttack(eps)(network, inputs, y, clip_values=bounds, generator=generator)
        assert distance(inputs, x_adv, "Linf").max() <= eps * (1 + 1e-4)
        masks.append(is_correct(network, x_adv, y))
    assert torch.equal(*masks)


@pytest.mark.slow
def test_autoattack_is_deterministic_from_its_generator_and_spares_the_global_one():
    network, (x, y) = Linear(), data(4)
    state = torch.get_rng_state()
    first, second = (
        AutoAttack(0.02)(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(4)) for _ in "12"
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_autoattack_puts_the_trace_function_back():
    network, (x, y), before = Linear(), data(4), sys.gettrace()

    def trace(frame, event, argument):
        return None

    sys.settrace(trace)
    try:
        AutoAttack(0.02)(network, x, y, clip_values=(0, 1))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("nb_classes", [4, 6])
def test_with_few_classes_autoattack_targets_all_others_without_a_warning(nb_classes, caplog):
    network = Linear(nb_classes)
    x, _ = data(6)
    with caplog.at_level(logging.WARNING):
        AutoAttack(0.01)(network, x, network(x).argmax(dim=1), clip_values=(0, 1))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("nb_classes", "clip_values", "message"),
    [
        (3, (0, 1), "at least 4 classes, got 3. Use PGD"),
        (5, None, r"needs the classifier's clip_values"),
        (5, (np.zeros((1, 6, 6)), np.linspace(1, 2, 36).reshape(1, 6, 6)), "same clip_values for every feature"),
    ],
)
def test_what_autoattack_cannot_judge_is_refused(nb_classes, clip_values, message):
    x, _ = data(4)
    with pytest.raises(ValueError, match=re.escape(message)):
        AutoAttack(0.02)(Linear(nb_classes), x, torch.zeros(4, dtype=torch.long), clip_values=clip_values)


def test_attacks_go_by_names():
    assert attack_by_name("autoattack", 0.1, "L2") == AutoAttack(0.1, "L2")
    assert attack_by_name("pgd-20", 0.2, "Linf") == PGD(0.2, 0.025, 20)
    assert [display_name(name) for name in ("autoattack", "pgd-20")] == ["AutoAttack", "PGD-20"]


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd-0", "PGD-20"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="attack must be 'autoattack' or 'pgd-K'"):
        attack_by_name(name, 0.1, "Linf")


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "eps"), ((0.1, "L0"), "norm"), ((0.1, "L2", "rand"), "version")]
)
def test_faulty_arguments_of_autoattack_are_refused(arguments, message):
    with pytest.raises(ValueError, match=rf"{message} must be"):
        AutoAttack(*arguments)


def test_an_attack_that_leaves_its_ball_is_no_measurement():
    def jump(network, x, y, *, clip_values=None, generator=None):
        return x + 0.2

    x, y = data(4)
    with pytest.raises(RuntimeError, match=r"must stay within eps = 0\.1"):
        within_ball(jump, 0.1, "Linf")(Linear(), x, y)
    assert torch.equal(within_ball(jump, 0.2, "Linf")(Linear(), x, y), x + 0.2)


def test_the_authors_own_package_is_used_where_it_is_installed(classifier, monkeypatch):
    asked = {}

    class Engine:
        def __init__(self, model, **options):
            self.model, self.apgd_targeted, self.fab = model, SimpleNamespace(), SimpleNamespace()
            asked.update(options)

        def run_standard_evaluation(self, x, y, bs):
            asked["nb_targets"] = self.fab.n_target_classes
            return x + asked["eps"]

    monkeypatch.setitem(sys.modules, "autoattack", SimpleNamespace(AutoAttack=Engine))
    x, network = images(dtype=torch.float32), classifier.at(1.0).as_module()
    x_adv = AutoAttack(0.2, "L2")(network, x, labels(), clip_values=(-1, 1))
    torch.testing.assert_close(x_adv, x + 0.2)  # the engine knows [0, 1] only, and half the radius there
    assert (asked["eps"], asked["norm"], asked["version"], asked["nb_targets"]) == (0.1, "L2", "standard", 4)
