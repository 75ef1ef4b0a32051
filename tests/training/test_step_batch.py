import pytest
import torch
from torch import nn

from art_oat.training.distributed import Group
from art_oat.training.step_batch import StepBatch
from tests.networks import images, labels


@pytest.mark.parametrize("size", [2, 3, 4])
def test_parts_hold_every_sample_once_in_alike_numbers_of_each_lam_and_their_portions_add_up(size, monkeypatch):
    monkeypatch.setattr(Group, "check_same", lambda *_: None)  # there are no others
    lam = torch.tensor([0.0] * 5 + [0.3] * 6 + [1.0] * 8)
    batch = StepBatch(images(19), labels(19), lam, lam, 1.0)
    parts = [batch.part(Group(rank, size)) for rank in range(size)]
    assert sorted(torch.cat([part.x[:, 0, 0, 0] for part in parts]).tolist()) == sorted(batch.x[:, 0, 0, 0].tolist())
    for value in (0.0, 0.3, 1.0):
        counts = [int((part.lam == value).sum()) for part in parts]
        assert max(counts) - min(counts) <= 1
    rows = torch.cat([part.attacked_rows.index for part in parts])
    assert rows.sort().values.tolist() == list(range(14))
    attacked = batch.x[lam > 0]
    for part in parts:
        assert torch.equal(attacked[part.attacked_rows.index], part.x[part.is_attacked])
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0]))
    for of_attacked in (True, False):
        assert sum(part.portion(criterion, of_attacked=of_attacked) for part in parts) == pytest.approx(1)
