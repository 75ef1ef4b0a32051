"""Loaders that give each process its own samples train what one process does on the joint batches."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from art_oat import NFGSM, PGD, OATClassifier, OATTrainer, to_conditional
from art_oat.data.augmentation import RandomCropFlip
from art_oat.group import Group
from art_oat.models.convnext import ConvNeXt
from art_oat.training import PerProcess, ResumeFile, hybrid_loss
from tests.networks import images, labels
from tests.pairs import parametrize_in_pairs
from tests.processes import in_processes
from tests.training.test_distributed import classifier_of, refused
from tests.training.trained import is_same

DATA = TensorDataset(images(33, seed=1), labels(33))


def without_statistics() -> OATClassifier:
    """One whose norms see one sample each, so that it does not matter which samples a process has."""
    torch.manual_seed(0)
    model = to_conditional(ConvNeXt((1,), (8,), in_channels=1, nb_classes=5).double(), (0.0, 0.5, 1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


class Shard(IterableDataset):
    """What a process has of samples that are cut by process."""

    def __init__(self, own: range) -> None:
        self.own = own

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (DATA[number] for number in self.own)


class JointBatches(IterableDataset):
    """What one process takes that does the work of several: of their next batches in turn a sample of each."""

    def __init__(self, loaders: Sequence[DataLoader]) -> None:
        self.loaders = loaders

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders:
            getattr(loader.sampler, "set_epoch", lambda _: None)(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batches in zip(*self.loaders, strict=False):
            yield tuple(self._in_turn(parts) for parts in zip(*batches, strict=True))

    def _in_turn(self, parts: Sequence[Tensor]) -> Tensor:
        longest = max(map(len, parts))
        return torch.stack([part[k] for k in range(longest) for part in parts if k < len(part)])


def dealt(rank: int, size: int, batch_size: int) -> DataLoader:
    return DataLoader(DATA, batch_size, sampler=DistributedSampler(DATA, size, rank, seed=5))


def sharded(rank: int, size: int, batch_size: int) -> PerProcess:
    """Process 0 has 13 samples and each other one 20: the others' third batch is larger, and their fourth is left."""
    first = 13 + 20 * (rank - 1)
    return PerProcess(DataLoader(Shard(range(first, first + 20) if rank else range(13)), batch_size))


def trained(make: Any, source: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The state after two epochs, on a source of each process, or on the joint one in a lone process."""
    group, classifier = Group.here(), make()
    joint = JointBatches([getattr(it, "loader", it) for it in (source(rank, 2, 5) for rank in range(2))])
    trainer = OATTrainer(classifier, **options)
    own = source(group.rank, 2, 5) if group.size > 1 else DataLoader(joint, batch_size=None)
    trainer.fit(own, nb_epochs=2, verbose=False)
    losses = {f"loss {record.epoch}": torch.tensor(record.loss) for record in trainer.history}
    return classifier.model.state_dict() | losses


@pytest.mark.slow(seconds=1)
@parametrize_in_pairs(
    source=[dealt, sharded],
    attack=[PGD(0.2, nb_steps=2), NFGSM(0.2)],
    more=[
        {},
        {"augmentation": RandomCropFlip(1), "ema": 0.9},
        {"weight_perturbation": 0.01},
        {"clean_share": 0.5, "clip_grad_norm": 0.1},
    ],
)
def test_two_processes_with_samples_of_their_own_train_what_one_does_on_the_joint_batches(
    source, attack, more, tmp_path
):
    args = (classifier_of, source, {"attack": attack, "sync_norms": True, **more})
    expected = trained(*args)
    first, second = in_processes(2, tmp_path, trained, *args)
    assert is_same(first, second)
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-8, msg=lambda it, n=name: f"{n}: {it}")


def of_two(rank: int, size: int, batch_size: int) -> DataLoader:
    """17 samples each, in batches of 2 and at last one of 1: of both processes, one has nothing to attack then."""
    return dealt(rank, size, 2)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    "more", [{"augmentation": RandomCropFlip(1)}, {"accumulation_steps": 2}, {"weight_perturbation": 0.01}]
)
def test_a_process_with_nothing_to_attack_draws_along_with_the_others(more, tmp_path):
    args = (without_statistics, of_two, {"attack": NFGSM(0.2), **more})
    expected = trained(*args)
    for found in in_processes(2, tmp_path, trained, *args):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)


class Noisy(TensorDataset):
    """Augments samples while they are loaded, from torch's global generator."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return (x + 0.01 * torch.randn_like(x)).clamp(0, 1), y


NOISY = Noisy(*DATA.tensors)
EVEN = TensorDataset(*DATA[:28])  # of which a sampler repeats none for two processes


class CutError(Exception):
    """Ends a training in its middle."""


def cut(path: Path | None, end: int, data: TensorDataset, *, is_joint: bool = False) -> dict[str, Tensor]:
    """The state after three epochs, or as far as to the given call of the loss."""
    group, classifier, calls = Group.here(), classifier_of(), itertools.count(1)

    def loss(*args: Any) -> Tensor:
        if next(calls) == end:
            raise CutError
        return hybrid_loss(*args)

    trainer = OATTrainer(classifier, attack=NFGSM(0.2), ema=0.9, loss=loss, sync_norms=is_joint)
    files = [] if path is None else [ResumeFile(path, every_steps=1)]
    loader = DataLoader(data, 10 // group.size, sampler=DistributedSampler(data, group.size, group.rank, seed=5))
    with suppress(CutError):
        trainer.fit(loader, nb_epochs=3, callbacks=files, verbose=False)
    return classifier.model.state_dict()


@pytest.mark.slow(seconds=1)
def test_a_training_goes_on_within_an_epoch_to_the_bit_though_samples_are_drawn_while_they_are_loaded(tmp_path):
    whole, other = in_processes(2, tmp_path, cut, None, 0, NOISY)
    assert is_same(whole, other)
    in_processes(2, tmp_path, cut, tmp_path / "state.pt", 6, NOISY)
    for again in in_processes(2, tmp_path, cut, tmp_path / "state.pt", 0, NOISY):
        assert is_same(again, whole)


@pytest.mark.slow(seconds=1)
def test_one_process_goes_on_with_what_two_began_as_if_it_had_done_all(tmp_path):
    whole = cut(None, 0, EVEN, is_joint=True)
    in_processes(2, tmp_path, partial(cut, is_joint=True), tmp_path / "state.pt", 6, EVEN)
    for name, value in cut(tmp_path / "state.pt", 0, EVEN, is_joint=True).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-8, atol=1e-8)


def refusals() -> list[str]:
    group = Group.here()

    def fitted(source: Any, **options: Any) -> None:
        OATTrainer(classifier_of(), attack=NFGSM(0.2), **options).fit(source, nb_epochs=1, verbose=False)

    return [
        refused(lambda: fitted(dealt(group.rank, 3, 5))),
        refused(lambda: fitted(sharded(group.rank, 2, 5).loader)),
        refused(lambda: fitted(dealt(group.rank, 2, 2), sync_norms=True)),
    ]


@pytest.mark.slow(seconds=1)
def test_what_is_mixed_up_is_refused_in_every_process(tmp_path):
    for rank, (sampler, undeclared, lacking) in enumerate(in_processes(2, tmp_path, refusals)):
        assert f"DistributedSampler must have num_replicas=2 and rank={rank}" in sampler
        assert "must be the same in all 2 processes" in undeclared
        assert "PerProcess(loader)" in undeclared
        assert "with sync_norms, each process must have a sample in every batch that is attacked" in lacking


def test_alone_a_sampler_for_several_processes_is_refused_and_what_is_no_loader_never_per_process():
    assert "num_replicas=1 and rank=0" in refused(
        lambda: OATTrainer(classifier_of(), attack=NFGSM(0.2)).fit(dealt(0, 2, 5), verbose=False)
    )
    with pytest.raises(TypeError, match="loader must be a DataLoader, got list"):
        PerProcess([])
