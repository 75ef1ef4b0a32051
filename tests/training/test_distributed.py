from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, OATTrainer, WeightPerturbation, to_conditional
from art_oat.attacks import NFGSM, bind
from art_oat.training.distributed import Group
from art_oat.training.step import Step
from tests.networks import Residual, images, labels, shaken
from tests.pairs import parametrize_in_pairs
from tests.training.processes import in_processes

N = 26  # neither 2 nor 4 processes have equally many
X, Y = images(N), labels(N)
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0], dtype=torch.float64)


def classifier_of(statistics: str = "dual", widths: tuple[float, ...] = (1.0,)) -> OATClassifier:
    torch.manual_seed(0)
    model = shaken(Residual(), statistics=statistics, widths=widths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1)
    return OATClassifier(model, loss, (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def shifted(network: nn.Module, x: Tensor, y: Tensor, *, clip_values: Any = None, generator: Any = None) -> Tensor:
    """An attack that gives the same ``x_adv`` in any group."""
    return (x + 0.1 * x.flip(-1)).clamp(0, 1)


def gradients(options: dict[str, Any], statistics: str, widths: tuple[float, ...]) -> dict[str, Tensor | None]:
    """Those of one step, before the optimizer takes it."""
    classifier = classifier_of(statistics, widths)
    trainer = OATTrainer(classifier, attack=shifted, **options)
    step = Step(
        classifier, trainer.method, bind(shifted, classifier), torch.Generator().manual_seed(3), Group.here()
    )
    step.start_epoch(1)
    step(X, Y)
    return {name: it.grad for name, it in classifier.model.named_parameters()} | dict(classifier.model.named_buffers())


@parametrize_in_pairs(
    nb=[2, 4],
    statistics=["dual", "shared", "single"],
    loss=["oat", "trades", "mart"],
    widths=[(1.0,), (0.5, 1.0)],
    more=[{}, {"weight_perturbation": WeightPerturbation(0.01)}, {"clip_grad_norm": 0.1}],
)
def test_synchronized_processes_have_the_gradient_of_one_on_the_joint_batch(
    nb, statistics, loss, widths, more, tmp_path
):
    several = {"width_sampling": "sandwich", "distills": True} if len(widths) > 1 else {}
    args = ({"sync_norms": True, "loss": loss, **several, **more}, statistics, widths)
    expected = gradients(*args)
    for found in in_processes(nb, tmp_path, gradients, *args):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda it, n=name: f"{n}: {it}")
