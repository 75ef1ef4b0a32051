"""Learning rates layer by layer (LARS, LAMB), as timm has them: a classifier's optimizer like another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from art_oat import OATClassifier
from art_oat.training import EpochRecord, ResumeFile, parameter_groups
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.networks import Residual, shaken
from tests.training.trained import fit, is_same, state


def classifier_of(name: str, widths: tuple[float, ...]) -> OATClassifier:
    with torchvision_importable():
        from timm import optim
    torch.manual_seed(0)
    model = shaken(Residual().float(), widths=widths)
    optimizer = getattr(optim, name)(parameter_groups(model, weight_decay=1e-2), lr=0.05)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


class CutError(Exception):
    """What ends a training."""


def trained(name: str, widths: tuple[float, ...], path: Path, last: int | None = None) -> dict[str, Tensor]:
    """The state after three epochs, the last of them in this call if it is not cut before."""

    def cut(record: EpochRecord) -> None:
        if record.epoch == last:
            raise CutError

    several = {"width_sampling": "sandwich"} if len(widths) > 1 else {}
    trainer = fit(classifier_of(name, widths), nb_epochs=3, callbacks=[ResumeFile(path), cut], **several)
    return state(trainer.get_classifier())


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("name", ["Lars", "Lamb"])
@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
def test_a_training_moves_every_weight_and_goes_on_to_the_same_bits(name, widths, tmp_path):
    before = state(classifier_of(name, widths))
    whole = trained(name, widths, tmp_path / "whole.pt")
    assert all(bool(value.isfinite().all()) for value in whole.values() if value.is_floating_point())
    weights = dict(classifier_of(name, widths).model.named_parameters())
    assert [it for it in weights if torch.equal(before[it], whole[it])] == []
    with pytest.raises(CutError):
        trained(name, widths, tmp_path / "cut.pt", 2)
    assert is_same(trained(name, widths, tmp_path / "cut.pt"), whole)
