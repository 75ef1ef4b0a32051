import pytest
import torch
from torch import nn

from art_oat import Method
from art_oat.group import Group
from art_oat.training.step_batch import StepBatch, joint_faults
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


@pytest.mark.parametrize(("size", "faults"), [(1, 0), (2, 1)])
def test_norms_that_cannot_be_synchronized_are_refused_by_path_where_several_processes_train(size, faults, classifier):
    classifier.model.network.own = nn.BatchNorm1d(3)  # as no conversion leaves it
    found = joint_faults(classifier, Method(sync_norms=True), Group(0, size), images(20).numpy(), 10)
    assert len(found) == faults
    assert all("sync_norms needs batch norms that were converted, but own were not" in fault for fault in found)


@pytest.mark.parametrize(
    ("nb_samples", "batch_size", "is_fitting"),
    [(20, 10, True), (22, 10, False), (24, 10, True), (5, 10, True), (4, 10, True), (3, 10, False)],
)
def test_batches_too_small_for_all_processes_are_refused_before_anything_is_trained(
    nb_samples, batch_size, is_fitting, classifier
):
    """Of six lams, a batch of ``n`` has ``ceil(n / 6)`` samples at 0; each of three processes needs one above 0."""
    found = joint_faults(classifier, Method(), Group(1, 3), images(nb_samples).numpy(), batch_size)
    assert len(found) == (not is_fitting)
