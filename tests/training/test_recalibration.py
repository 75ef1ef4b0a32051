"""Statistics computed anew, for every side and width, and torch's ``update_bn`` on a conditional network."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

from art_oat import PGD, OATClassifier, to_conditional
from art_oat.training import recalibrate
from art_oat.transfer import freeze_below
from tests.networks import Residual, changed, conv, images, labels, shaken, state

WIDTHS = (0.5, 1.0)


def batches(nb_batches: int = 3, size: int = 8) -> list[Tensor]:
    return [images(size, seed=seed) for seed in range(nb_batches)]


class OneNorm(nn.Module):
    """Its norm sees the inputs themselves, so its statistics are known."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(1, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("by", [recalibrate, lambda model, loader: update_bn(loader, model)], ids=["ours", "torch"])
def test_statistics_are_the_averages_over_the_batches(by, statistics):
    model = to_conditional(OneNorm().double(), (0, 0.5, 1), statistics=statistics)
    by(model, batches())
    norm = model.network.norm
    for side in (norm.clean, norm.adversarial) if statistics == "dual" else (norm.statistics,):
        torch.testing.assert_close(side.running_mean, torch.stack([x.mean() for x in batches()]).mean().view(1))
        torch.testing.assert_close(side.running_var, torch.stack([x.var() for x in batches()]).mean().view(1))


def test_both_sides_of_every_width_are_what_training_passes_at_their_lams_leave():
    model = shaken(Residual(), widths=WIDTHS)
    expected = copy.deepcopy(model)
    recalibrate(model, batches())
    norms = [part for part in expected.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    lam = torch.tensor(expected.lambdas[1:], dtype=torch.float64)
    expected.train()
    with torch.no_grad():
        for x in batches():
            for width in WIDTHS:
                expected(x, torch.zeros(8, dtype=torch.float64), width)
                expected(x, lam.repeat(2)[:8], width)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], msg=name)


def test_torch_computes_the_same():
    ours = shaken(Residual(), widths=WIDTHS)
    torchs, averaged = copy.deepcopy(ours), AveragedModel(ours)
    recalibrate(ours, batches())
    update_bn(batches(), torchs)
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())
    update_bn(batches(), averaged)
    torch.testing.assert_close(ours.state_dict(), averaged.module.state_dict())


def test_with_an_attack_the_other_side_sees_attacked_inputs_too_and_the_clean_side_does_not():
    def statistics(**options: object) -> tuple[Tensor, Tensor]:
        model = to_conditional(OneNorm().double(), (0, 1))
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
        recalibrate(classifier, [(x, labels()) for x in batches()], **options)
        return model.network.norm.clean.running_mean.clone(), model.network.norm.adversarial.running_mean.clone()

    (clean, other), (clean_too, attacked) = statistics(), statistics(attack=PGD(0.1))
    torch.testing.assert_close(clean, clean_too)
    torch.testing.assert_close(clean, other)
    assert 1e-3 < abs(float(attacked - other)) <= 0.1 / 2  # half of what it sees is moved by at most eps


def test_plain_networks_follow_and_modes_and_momenta_stay():
    model = shaken(Residual())
    pinned, momenta = model.pinned(0.3), {part.momentum for part in model.modules() if hasattr(part, "momentum")}
    before = pinned(images())
    recalibrate(model, DataLoader(TensorDataset(images(), labels()), 4))
    assert not model.training
    assert {part.momentum for part in model.modules() if hasattr(part, "momentum")} == momenta
    assert not torch.allclose(pinned(images()), before)
    torch.testing.assert_close(pinned(images()), model(images(), 0.3))


def test_frozen_norms_keep_their_statistics():
    body = (conv(1, 4), nn.BatchNorm2d(4), conv(4, 4), nn.BatchNorm2d(4))
    model = shaken(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    freeze_below(model, "2")
    before = state(model)
    recalibrate(model, batches())
    assert {name.split(".")[1] for name in changed(model, before)} == {"3"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loader": []}, ValueError, "loader must give at least one batch"),
        ({"loader": [torch.zeros(2, 3, 3, 3)]}, RuntimeError, "expected input"),
        ({"attack": PGD(0.1)}, TypeError, "needs an OATClassifier"),
        ({"model": Residual()}, TypeError, "model must be an OATModel, got Residual: convert it"),
    ],
)
def test_after_a_refusal_everything_is_as_it_was(arguments, error, message):
    model = shaken(Residual())
    before = state(model)
    with pytest.raises(error, match=message):
        recalibrate(**({"model": model, "loader": batches()} | arguments))
    assert not changed(model, before)
    assert not model.training
