import os
import shutil
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, OATTrainer, StratifiedSampling, WeightPerturbation, to_conditional
from art_oat.attacks import NFGSM, bind
from art_oat.group import Group
from art_oat.launch import PeerError
from art_oat.training import Callback, CSVLogger, DivergenceWarning, EpochRecord, RestoreBest, ResumeFile, hybrid_loss
from art_oat.training.step import Step
from tests.networks import LAMBDAS, Residual, images, labels, shaken
from tests.pairs import parametrize_in_pairs
from tests.processes import in_processes
from tests.training.trained import is_same

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
    step = Step(classifier, trainer.method, bind(shifted, classifier), torch.Generator().manual_seed(3), Group.here())
    step.start_epoch(1)
    step(X, Y)
    return {name: it.grad for name, it in classifier.model.named_parameters()} | dict(classifier.model.named_buffers())


@pytest.mark.slow(seconds=1)
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


def three_steps(options: dict[str, Any], statistics: str = "dual") -> dict[str, Any]:
    """The state after three whole steps, the last of them on fewer samples, with validation and average."""
    classifier = classifier_of(statistics)
    trainer = OATTrainer(classifier, **options)
    torch.rand(Group.here().rank)  # what a process has drawn before does not matter
    x, y = images(2 * N + 13, seed=1).numpy(), labels(2 * N + 13).numpy()
    trainer.fit(x, y, validation_data=(X.numpy(), Y.numpy()), batch_size=N, nb_epochs=1, verbose=False)
    record = trainer.history[0]
    figures = {name: torch.tensor(getattr(record, name)) for name in ("loss", "clean", "robust", "area")}
    points = {str(point): torch.tensor(point.robust) for point in record.validation}
    return classifier.model.state_dict() | figures | points


@pytest.mark.slow(seconds=1)
@parametrize_in_pairs(
    nb=[2, 4],
    attack=[PGD(0.2, nb_steps=3), NFGSM(0.2), PGD(0.2, nb_steps=2, norm="L2"), PGD(0.2, nb_steps=2, objective="kl")],
    more=[{}, {"ema": 0.9, "weight_perturbation": 0.01, "dials": "eps"}],
)
def test_three_synchronized_steps_attack_included_give_the_weights_of_one_process(nb, attack, more, tmp_path):
    options = {"sync_norms": True, "attack": attack, **more}
    expected = three_steps(options)
    first, *others = in_processes(nb, tmp_path, three_steps, options)
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-8, msg=lambda it, n=name: f"{n}: {it}")
        assert all(torch.equal(first[name], other[name]) for other in others), name


def part_by_part(nb: int) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Total weight, and gradient and statistics, of the rows of each of ``nb`` processes, written out."""
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(N, generator=generator)
    lam = StratifiedSampling().draw(LAMBDAS, N, generator).double()
    weights, found = [], []
    for rank in range(nb):
        classifier, rows = classifier_of(), slice(rank, N, nb)
        x, y, own, model = X[order][rows], Y[order][rows], lam[rows], classifier.model
        x_adv = shifted(model, x, y)[own > 0]
        model.train()
        hybrid_loss(model(x, own), model(x_adv, own[own > 0]), y, own, classifier.loss).backward()
        weights.append(float(WEIGHTS[y].sum()))
        found.append({name: it.grad for name, it in model.named_parameters()} | dict(model.named_buffers()))
    return weights, found


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("nb", [2, 4])
def test_without_synchronized_norms_each_process_normalizes_its_own_rows(nb, tmp_path):
    """The gradient is the mean of those of the parts, by their weights; statistics move by the mean of their moves."""
    found = in_processes(nb, tmp_path, gradients, {}, "dual", (1.0,))
    assert all(torch.equal(one[name], other[name]) for one, other in pairwise(found) for name in one)
    weights, parts = part_by_part(nb)
    start = dict(classifier_of().model.named_buffers())
    for name, value in found[0].items():
        of_parts = [part[name] for part in parts]
        if name not in start:
            expected = sum(w * it for w, it in zip(weights, of_parts, strict=True)) / sum(weights)
        elif value.is_floating_point():
            expected = torch.stack(of_parts).mean(dim=0)
        else:
            expected = torch.stack(of_parts).amax(dim=0)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10, msg=lambda it, n=name: f"{n}: {it}")


def refused(function: Any) -> str:
    """The error that a function ends with, in this process."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        function()
    return str(caught.value)


def fitted(nb: int = N, batch_size: int = N, *, seed: int = 0, shift: int = 0) -> None:
    trainer = OATTrainer(classifier_of(), attack="n-fgsm", eps=0.1, seed=seed)
    x = (images(nb) + 0.001 * shift).clamp(0, 1).numpy()
    trainer.fit(x, labels(nb).numpy(), batch_size=batch_size, nb_epochs=1, verbose=False)


def refusals() -> list[str]:
    rank, size = Group.here().rank, Group.here().size
    return [
        refused(lambda: fitted(seed=rank)),
        refused(lambda: fitted(shift=rank)),
        refused(lambda: fitted(nb=N + size - 1)),
    ]


def test_what_would_train_different_networks_is_refused_in_every_process_by_one_line(tmp_path):
    for found in in_processes(2, tmp_path, refusals):
        settings, batches, size = found
        assert settings.startswith("the settings of a training must be the same in all 2 processes")
        assert batches.startswith("the batches of a training, and what is drawn for them, must be the same in all 2")
        assert size.startswith("a batch must hold an attacked sample for each of the 2 processes, got 0 in a batch")
        assert not any("\n" in message for message in found)


def test_processes_that_form_no_group_are_told_to_and_nothing_is_trained(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "call torch.distributed.init_process_group() in each of them first" in refused(fitted)


class Dropping(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = self.drop(torch.ones_like(x))
        if self.training:
            self.masks.append(mask.detach())
        return super().forward(x * mask)


def noisy(network: nn.Module, x: Tensor, y: Tensor, *, clip_values: Any = None, generator: Any = None) -> Tensor:
    """An attack that draws from generators as it likes."""
    noise = torch.rand(x.shape, generator=generator) + torch.rand_like(x)
    return (x + 0.1 * noise.to(x)).clamp(0, 1)


def with_draws_of_its_own() -> list[Any]:
    torch.manual_seed(0)
    model = to_conditional(Dropping().double(), LAMBDAS)
    classifier = OATClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 5, torch.optim.SGD(model.parameters(), 0.1), clip_values=(0, 1)
    )
    trainer = OATTrainer(classifier, attack=noisy)
    model.network.masks.clear()
    trainer.fit(X.numpy(), Y.numpy(), batch_size=13, nb_epochs=2, verbose=False)
    weights = {name: it.clone() for name, it in model.state_dict().items()}
    return [trainer._generator.get_state(), weights, model.network.masks[0]]


@pytest.mark.slow(seconds=1)
def test_dropout_and_attacks_draw_apart_and_the_processes_stay_alike(tmp_path):
    first, second = in_processes(2, tmp_path, with_draws_of_its_own)
    assert torch.equal(first[0], second[0])
    assert is_same(first[1], second[1])
    assert not torch.equal(first[2][:6], second[2][:6])


class EndsAfter(Callback):
    """Counts on whom it is told, and ends a training."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.told = epoch, []

    def on_epoch_end(self, record: EpochRecord) -> bool:
        self.told.append(record.epoch)
        return record.epoch == self.epoch


def trained_with_callbacks(folder: Path, end: int, every_steps: int) -> list[Any]:
    classifier = classifier_of()
    trainer, ends = OATTrainer(classifier, attack=PGD(0.2, nb_steps=2), sync_norms=True, ema=0.9), EndsAfter(end)
    files = [CSVLogger(folder / "log.csv"), ResumeFile(folder / "state.pt", every_steps=every_steps)]
    data = {"validation_data": (X.numpy(), Y.numpy()), "batch_size": 13, "verbose": False}
    trainer.fit(X.numpy(), Y.numpy(), nb_epochs=4, callbacks=[ends, RestoreBest(), *files], **data)
    return [ends.told, [record.epoch for record in trainer.history], trainer.best_epoch, classifier.model.state_dict()]


@pytest.mark.slow(seconds=1)
def test_one_process_is_told_writes_and_decides_and_all_end_alike_with_the_best_weights(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    expected = trained_with_callbacks(tmp_path / "one", 2, 1)
    first, second = in_processes(2, tmp_path, trained_with_callbacks, tmp_path / "two", 2, 1)
    assert first[0] == [1, 2]
    assert second[0] == []
    assert first[1:3] == second[1:3] == expected[1:3]
    assert is_same(first[3], second[3])
    for name, value in expected[3].items():
        torch.testing.assert_close(first[3][name], value, rtol=1e-8, atol=1e-8)
    assert len((tmp_path / "two" / "log.csv").read_text().splitlines()) == 3


def resumed(source: Path | None, kept: Path, path: Path) -> dict[str, Tensor]:
    """The state after three epochs, from a file on where there is one; a copy of the file in the third is kept."""
    if source is not None and Group.here().is_first:
        shutil.copy(source, path)
    classifier = classifier_of()
    trainer = OATTrainer(classifier, attack=PGD(0.2, nb_steps=2), sync_norms=True, ema=0.9, on_nan="restore")

    def keep(record: EpochRecord) -> None:
        if record.epoch == 3:
            shutil.copy(path, kept)

    callbacks = [keep, ResumeFile(path, every_steps=1)]
    trainer.fit(X.numpy(), Y.numpy(), batch_size=9, nb_epochs=3, callbacks=callbacks, verbose=False)
    return classifier.model.state_dict()


@pytest.mark.slow(seconds=1)
def test_a_training_goes_on_from_within_an_epoch_in_as_many_processes_to_the_bit_and_in_others_to_rounding(tmp_path):
    kept, other = tmp_path / "kept.pt", tmp_path / "other.pt"
    whole, _ = in_processes(2, tmp_path, resumed, None, kept, tmp_path / "whole.pt")
    for again in in_processes(2, tmp_path, resumed, kept, other, tmp_path / "again.pt"):
        assert is_same(again, whole)
    alone = resumed(kept, other, tmp_path / "alone.pt")
    for found in (alone, *in_processes(3, tmp_path, resumed, kept, other, tmp_path / "three.pt")):
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)


def left_alone(folder: Path, is_joint: bool) -> str:
    """What a process says whose peer ends in the middle of a training, by a signal or otherwise."""
    classifier = classifier_of()
    trainer = OATTrainer(classifier, attack="n-fgsm", eps=0.1, sync_norms=is_joint)

    def attack(network: nn.Module, x: Tensor, y: Tensor, *, clip_values: Any = None, generator: Any = None) -> Tensor:
        if Group.here().rank:
            torch.save("gone", folder / "1.pt")
            os._exit(0)
        return x

    trainer.method = replace(trainer.method, attack=attack)
    with pytest.raises(PeerError, match="another process of this group has ended") as caught:
        trainer.fit(X.numpy(), Y.numpy(), batch_size=N, nb_epochs=1, verbose=False)
    return str(caught.value)


@pytest.mark.parametrize("is_joint", [True, False])
def test_a_process_whose_peer_is_gone_ends_at_once_by_one_line(is_joint, tmp_path):
    said, _ = in_processes(2, tmp_path, left_alone, tmp_path / "group0", is_joint)
    assert "\n" not in said


def with_a_fault_in_one() -> list[Any]:
    classifier, calls = classifier_of(), []

    def loss(*args: Any) -> Tensor:
        calls.append(len(args))
        value = hybrid_loss(*args)
        return value * float("nan") if Group.here().rank == 1 and len(calls) == 3 else value

    trainer = OATTrainer(classifier, attack="n-fgsm", eps=0.1, loss=loss, on_nan="restore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        trainer.fit(X.numpy(), Y.numpy(), batch_size=13, nb_epochs=3, verbose=False)
    return [[record.is_diverged for record in trainer.history], classifier.model.state_dict()]


@pytest.mark.slow(seconds=1)
def test_what_diverges_in_one_process_is_undone_in_all(tmp_path):
    first, second = in_processes(2, tmp_path, with_a_fault_in_one)
    assert first[0] == second[0] == [False, True, False, False]
    assert is_same(first[1], second[1])
