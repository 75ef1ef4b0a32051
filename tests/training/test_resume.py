import copy
import dataclasses
import functools
import io
import math
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from art_oat import (
    NFGSM,
    PGD,
    MARTLoss,
    OATClassifier,
    OATModel,
    OATTrainer,
    RandomCropFlip,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    to_conditional,
)
from art_oat.lock import locked_file
from art_oat.storage import digest
from art_oat.training import (
    Checkpoint,
    EarlyStopping,
    OneCycle,
    PerStep,
    RestoreBest,
    ResumeFile,
    Validation,
    WarmupCosine,
    hybrid_loss,
)
from art_oat.training.resume_file import _HEAD
from art_oat.training.step import Step
from tests.networks import WIDTHS, MobileSqueezeExcite
from tests.training.trained import X, Y

ATTACK = PGD(eps=0.1, nb_steps=1)
FEW = (0.0, 0.3, 1.0)
"""Lams: each is measured after every epoch."""


@functools.cache
def converted(seed: int, **conversion) -> OATModel:
    torch.manual_seed(seed)
    return to_conditional(MobileSqueezeExcite(), FEW, **conversion)


def with_dropout(seed: int = 0, make_optimizer=None, **conversion) -> OATClassifier:
    model = copy.deepcopy(converted(seed, **conversion))
    torch.manual_seed(seed)
    make_optimizer = make_optimizer or (lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9))
    optimizer = make_optimizer(model.parameters())
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def trainer_of(classifier: OATClassifier | None = None, **options) -> OATTrainer:
    arguments = {"attack": ATTACK, "augmentation": RandomCropFlip(1), "ema": 0.9, "seed": 3, **options}
    classifier = classifier or with_dropout()
    if arguments["attack"] is of_art:
        arguments["attack"] = of_art(classifier)
    return OATTrainer(classifier, **arguments)


def fit(trainer: OATTrainer, path, source=(X, Y), *, restores=True, callbacks=(), **options) -> OATTrainer:
    """Three epochs of two steps each; the path may be a whole ResumeFile."""
    arguments = {
        "batch_size": 10, "nb_epochs": 3, "scheduler": OneCycle(), "validation_data": (X[:10], Y[:10]),
        "verbose": False, **options,
    }  # fmt: skip
    files = [] if path is None else [path if isinstance(path, ResumeFile) else ResumeFile(path)]
    trainer.fit(*source, callbacks=[*files, *([RestoreBest()] if restores else []), *callbacks], **arguments)
    return trainer


def outcome(trainer: OATTrainer) -> dict:
    """All that a training leaves behind, but times."""
    timeless = {"seconds": 0.0, "validation_seconds": 0.0}
    parts = {
        "model": dict(trainer.classifier.model.state_dict()),
        "optimizer": trainer.classifier.optimizer.state_dict(),
        "history": [dataclasses.replace(record, **timeless).row() for record in trainer.history],
        "best_epoch": trainer.best_epoch or 0,
        "generator": trainer._generator.get_state(),
    }
    return copy.deepcopy(parts)


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@contextmanager
def cut_in(step: int):
    """Training fails in the step of this number, counted from 1, within the block."""
    numbers, unchanged = iter(range(1, 1000)), Step._add_gradient

    def add_gradient(self, *arguments):
        if next(numbers) == step:
            raise KeyboardInterrupt
        return unchanged(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "_add_gradient", add_gradient)
        with pytest.raises(KeyboardInterrupt):
            yield


SCHEDULERS = {
    "one cycle": lambda _: OneCycle(),
    "none": lambda _: None,
    "torch's cycle": lambda optimizer: PerStep(lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=7)),
    "milestones": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("step", [3, 6])  # of six: the first of the second epoch, and the last of all
def test_a_cut_training_gone_on_with_in_another_network_equals_the_uncut_one(tmp_path, kind, step):
    def train(path, classifier):
        return fit(trainer_of(classifier), path, scheduler=SCHEDULERS[kind](classifier.optimizer))

    whole = train(None, with_dropout())
    with cut_in(step):
        train(tmp_path / "state.pt", with_dropout())
    torch.manual_seed(5)  # the global generator has no say
    assert_same(outcome(train(tmp_path / "state.pt", with_dropout(seed=1))), outcome(whole))


def of_art(classifier: OATClassifier) -> ProjectedGradientDescentPyTorch:
    return ProjectedGradientDescentPyTorch(classifier, eps=0.1, max_iter=1, num_random_init=1, verbose=False)


VARIANTS = {
    "no validation": ({}, {"validation_data": None, "restores": False}, {}),
    "no average": ({"ema": None, "augmentation": None}, {"validation_data": Validation(X[:10], Y[:10], 2)}, {}),
    "all widths": ({"width_sampling": "all", "distills": True}, {}, {"widths": WIDTHS, "heads": "per-width"}),
    "random width": ({"width_sampling": "random"}, {}, {"widths": WIDTHS}),
    "bf16": ({"precision": "bf16"}, {}, {}),
    "attack in bf16": ({"attack_precision": "bf16"}, {}, {}),
    "perturbed weights": ({"weight_perturbation": WeightPerturbation(0.1)}, {}, {}),
    "perturbed after a warmup": ({"weight_perturbation": WeightPerturbation(0.1, 2), "loss": MARTLoss()}, {}, {}),
    "trades": ({"loss": TRADESLoss(), "attack": PGD(eps=0.1, nb_steps=1, objective="kl")}, {}, {}),
    "guarded": ({"attack": NFGSM(eps=0.1), "fallback": ATTACK}, {}, {}),
    "AdamW": ({}, {}, {"make_optimizer": lambda weights: torch.optim.AdamW(weights, lr=torch.tensor(0.01))}),
    "attack of ART": ({"attack": of_art}, {}, {}),
    "growing radius": ({"eps_warmup": 0.8}, {}, {}),
    "growing radius of all widths": ({"eps_warmup": 0.8, "clean_share": 0.3}, {}, {"widths": WIDTHS}),
    "clipped gradients, matched dropout": ({"clip_grad_norm": 0.1, "matches_dropout": True}, {}, {}),
    "accumulated gradients": ({"accumulation_steps": 3, "weight_perturbation": WeightPerturbation(0.1)}, {}, {}),
    "loader": ({}, {"source": (DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 10),)}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_training_is_combined_from_is_gone_on_with(tmp_path, variant):
    method, options, network = VARIANTS[variant]
    whole = fit(trainer_of(with_dropout(**network), **method), None, **options)
    with cut_in(4 * (3 if variant in ("all widths", "accumulated gradients") else 1)):
        fit(trainer_of(with_dropout(**network), **method), tmp_path / "state.pt", **options)
    again = fit(trainer_of(with_dropout(seed=1, **network), **method), tmp_path / "state.pt", **options)
    assert_same(outcome(again), outcome(whole))


def test_cut_again_and_again_by_steps_and_callbacks_it_still_equals_the_uncut_one(tmp_path):
    def interrupt(record):
        if record.epoch == 3:
            raise KeyboardInterrupt

    path = tmp_path / "state.pt"
    for step in (2, 4, 1):  # in epochs 1, 2 and 2
        with cut_in(step):
            fit(trainer_of(), path)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer_of(), path, callbacks=[interrupt])
    assert_same(outcome(fit(trainer_of(), path)), outcome(fit(trainer_of(), None)))


def test_the_same_trainer_goes_on_too_after_a_training_before(tmp_path):
    trainers = trainer_of(), trainer_of()
    for trainer in trainers:
        fit(trainer, None, nb_epochs=1)
    with cut_in(5):
        fit(trainers[0], tmp_path / "state.pt")
    assert [record.epoch for record in trainers[0].history] == [1, 2, 3]
    for trainer, path in zip(trainers, (tmp_path / "state.pt", None), strict=True):
        fit(trainer, path)
    assert_same(outcome(trainers[0]), outcome(trainers[1]))
    assert [record.epoch for record in trainers[0].history] == [1, 2, 3, 4]


def test_a_file_changes_nothing_about_what_a_cut_training_leaves(tmp_path):
    trainers = trainer_of(), trainer_of()
    for trainer, path in zip(trainers, (None, tmp_path / "state.pt"), strict=True):
        with cut_in(4):
            fit(trainer, path)
    assert_same(outcome(trainers[1]), outcome(trainers[0]))


def diverging_in(step: int):
    """The usual loss, but NaN in the step of this number, counted from 1."""
    numbers = iter(range(1, 1000))

    def loss(*arguments):
        return hybrid_loss(*arguments) * (float("nan") if next(numbers) == step else 1.0)

    return loss


def test_a_training_gone_on_with_that_diverges_at_once_goes_back_to_where_it_went_on(tmp_path):
    trained = {}
    for seed, step in ((0, 3), (1, 1)):  # both in the first step of the second epoch
        trainer = trainer_of(with_dropout(seed), ema=None, loss=diverging_in(step))
        with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 2"):
            fit(trainer, tmp_path / "state.pt", restores=False)
        trained[seed] = torch.load(io.BytesIO(contents(tmp_path / "state.pt")))["content"]["step"]["tensors"]
    assert_same([*trainer.classifier.model.parameters(), *trainer.classifier.model.buffers()], trained[1])
    assert_same(trained[0], trained[1])


KILLED = """
import os, signal
from tests.training.test_resume import fit, trainer_of
kill = lambda record: record.epoch == 2 and os.kill(os.getpid(), signal.SIGKILL)
fit(trainer_of(), {path!r}, callbacks=[kill])
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_file_to_go_on_from(tmp_path):
    path, root = tmp_path / "state.pt", Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = KILLED.format(path=str(path))
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert_same(outcome(fit(trainer_of(), path)), outcome(fit(trainer_of(), None)))


@pytest.mark.parametrize("callbacks", [[], [lambda record: record.epoch == 2]])
def test_of_a_finished_or_ended_training_the_result_comes_back_without_a_step(tmp_path, callbacks):
    whole = fit(trainer_of(), tmp_path / "state.pt", callbacks=callbacks)
    written = (tmp_path / "state.pt").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", None)
        again = fit(trainer_of(with_dropout(seed=1)), tmp_path / "state.pt")
    assert_same(outcome(again), outcome(whole))
    assert len(again.history) == (2 if callbacks else 3)
    assert (tmp_path / "state.pt").read_bytes() == written


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ({"seed": 4}, {}, "seed was 3, is 4"),
        ({"attack": PGD(eps=0.2)}, {}, "attack.eps was 0.1, is 0.2"),
        ({"ema": None}, {}, "ema was 0.9, is None"),
        ({"augmentation": None}, {}, "augmentation was RandomCropFlip, is None"),
        ({"sampling": StratifiedSampling({1.0: 2})}, {}, "sampling.weights.1.0 was not there, is 2"),
        ({"loss": lambda logits, *_: logits.sum()}, {}, "loss was hybrid_loss, is <lambda>"),
        ({"eps_warmup": 0.5}, {}, "eps_warmup was 0.0, is 0.5"),
        ({"clip_grad_norm": 1.0}, {}, "clip_grad_norm was None, is 1.0"),
        ({"accumulation_steps": 2}, {}, "accumulation_steps was 1, is 2"),
        ({"matches_dropout": True}, {}, "matches_dropout was False, is True"),
        ({"precision": "bf16"}, {}, "precision was float32, is bf16"),
        ({"attack_precision": "float32"}, {}, "attack_precision was None, is float32"),
        ({"fallback": PGD(eps=0.2)}, {}, "fallback was None, is PGD"),
        (
            {"weight_perturbation": WeightPerturbation(0.1, 2)},
            {},
            "weight_perturbation was None, is WeightPerturbation",
        ),
        ({"classifier": with_dropout(widths=WIDTHS)}, {}, r"widths was \[1.0\], is \[0.5, 0.75, 1.0\].*and .* more"),
        (
            {"classifier": with_dropout(make_optimizer=lambda weights: torch.optim.SGD(weights, lr=0.2))},
            {},
            "optimizer.groups.0.lr was 0.1, is 0.2",
        ),
        ({}, {"nb_epochs": 5, "batch_size": 7}, "nb_epochs was 3, is 5; .*number of batches was 2, is 3; batch_size"),
        ({}, {"source": (X[:15], Y[:15])}, "number of samples was 20, is 15"),
        ({}, {"scheduler": WarmupCosine()}, "scheduler was OneCycle, is WarmupCosine"),
        ({}, {"restores": False}, "RestoreBest was True, is not there"),
        ({}, {"callbacks": [EarlyStopping(2)]}, "patience was not there, is 2"),
        ({}, {"validation_data": (X, Y)}, "number of validation samples was 10, is 20"),
        ({}, {"validation_data": Validation(X[:10], Y[:10], 2)}, "validation interval was 1, is 2"),
    ],
)
def test_the_file_of_another_training_is_refused_before_anything_is_touched(tmp_path, method, options, message):
    path = tmp_path / "state.pt"
    fit(trainer_of(), path)
    written, trainer = path.read_bytes(), trainer_of(**method)
    before = outcome(trainer)
    with pytest.raises(ValueError, match=f"ResumeFile must name a file of this training, got .*{message}") as caught:
        fit(trainer, path, **options)
    assert "or delete the file to start anew" in str(caught.value)
    assert_same(outcome(trainer), before)
    assert path.read_bytes() == written


@pytest.mark.parametrize("kinds", [("one cycle", "milestones"), ("milestones", "none")])
def test_a_file_by_another_scheduler_is_refused_in_one_clear_sentence(tmp_path, kinds):
    before, after = (trainer_of() for _ in kinds)
    kept, asked = (
        SCHEDULERS[kind](trainer.classifier.optimizer) for kind, trainer in zip(kinds, (before, after), strict=True)
    )
    fit(before, tmp_path / "state.pt", scheduler=kept)
    with pytest.raises(ValueError, match=r"with other settings: scheduler was [^;]*, is [^;]*\. Go on with"):
        fit(after, tmp_path / "state.pt", scheduler=asked)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    for spoil in (path.touch, lambda: path.write_bytes(b"other"), lambda: torch.save({"weights": 1}, path)):
        spoil()
        with pytest.raises(ValueError, match="ResumeFile must name a file that fit wrote, or none yet"):
            fit(trainer_of(), path)
    with pytest.raises(ValueError, match="ResumeFile must name a file, got "):
        fit(trainer_of(), tmp_path)


def test_a_file_runs_nothing_when_it_is_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    for write in (torch.save, write_signed):
        write({"settings": Evil(), "content": {}}, tmp_path / "state.pt")
        with pytest.raises(ValueError, match="ResumeFile must name a file that fit wrote"):
            fit(trainer_of(), tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()


def contents(path: Path) -> bytes:
    """What torch wrote, without the line before it."""
    return path.read_bytes().partition(b"\n")[2]


def read(path: Path) -> dict:
    """What a file says of the state of its training."""
    return torch.load(io.BytesIO(contents(path)))["content"]


def write_signed(kept: dict, path: Path) -> None:
    """Write what one likes with the digest that belongs to it."""
    file = io.BytesIO()
    torch.save(kept, file)
    path.write_bytes(_HEAD + digest(file.getvalue()).encode() + b"\n" + file.getvalue())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("written") / "state.pt"
    with cut_in(5):
        fit(trainer_of(), path)
    return path


def everything(trainer: OATTrainer) -> tuple:
    """What a refusal must leave as it is: weights, optimizer, generators, modes and history."""
    classifier = trainer.classifier
    tensors = [*classifier.model.parameters(), *classifier.model.buffers(), torch.get_rng_state()]
    modes = [module.training for module in classifier.model.modules()]
    return (
        [it.detach().clone() for it in tensors],
        copy.deepcopy(classifier.optimizer.state_dict()),
        trainer._generator.get_state(),
        modes,
        list(trainer.history),
    )


@pytest.mark.slow(seconds=1)
def test_no_bit_of_a_file_changes_unnoticed(tmp_path, written):
    path, good, draw = tmp_path / "state.pt", written.read_bytes(), random.Random(0)
    trainer = trainer_of(with_dropout(seed=1))
    before = everything(trainer)
    for _ in range(100):
        flipped, place = bytearray(good), draw.randrange(len(good))
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"ResumeFile must name a file that fit wrote, .*state\.pt, which is"):
            fit(trainer, path)
    torch.testing.assert_close(everything(trainer), before, rtol=0, atol=0)


@pytest.mark.parametrize("length", [0, 10, 100, 5000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, written, length):
    (tmp_path / "state.pt").write_bytes(written.read_bytes()[:length])
    with pytest.raises(ValueError, match="ResumeFile must name a file that fit wrote, or none yet, got"):
        fit(trainer_of(), tmp_path / "state.pt")


def set_nan(content) -> None:
    content["step"]["tensors"][0][0] = math.nan


def take_momentum_of_another(content) -> None:
    content["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(2)


FORGED = {
    **{f"no {name}": (lambda content, name=name: content.pop(name), name) for name in ("optimizer", "history", "step")},
    "too many epochs": (lambda content: content.update(nb_done=99), "nb_done must be what fit wrote"),
    "epochs below 0": (lambda content: content.update(nb_done=-1), "nb_done must be what fit wrote"),
    "more epochs before than there are records": (
        lambda content: content.update(nb_before=9),
        "nb_before must be what fit wrote",
    ),
    "a learning rate of NaN": (
        lambda content: content["optimizer"]["param_groups"][0].update(lr=math.nan),
        "optimizer must be what fit wrote",
    ),
    "no number": (lambda content: content.update(nb_steps="3"), "nb_steps must be what fit wrote"),
    "NaN": (set_nan, "weights: .* must hold numbers, got NaN"),
    "too few": (lambda content: content["step"]["tensors"].pop(), r"weights must hold \d+ tensors, got \d+"),
    "another shape": (
        lambda content: content["step"]["tensors"].__setitem__(0, torch.zeros(2)),
        r"weights: .* must be float32 .*, got float32 \[2\]",
    ),
    "another dtype": (
        lambda content: content["step"]["tensors"].__setitem__(0, content["step"]["tensors"][0].double()),
        "weights: .* must be float32 .*, got float64",
    ),
    "another average": (lambda content: content["step"]["average"]["averages"].pop(), "average must hold"),
    "another best": (
        lambda content: content["callbacks"]["RestoreBest"][0]["tensors"].pop(),
        "best weights must hold",
    ),
    "another optimizer": (take_momentum_of_another, "optimizer must be what fit wrote"),
    "another generator": (lambda content: content.update(generator=torch.zeros(3)), "generator must be what fit wrote"),
    "another history": (lambda content: content["history"][0].pop("loss"), "history must be what fit wrote"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_state_that_no_training_can_have_come_to_is_refused_and_nothing_is_touched(tmp_path, written, name):
    spoil, message = FORGED[name]
    kept = torch.load(io.BytesIO(contents(written)))
    spoil(kept["content"])
    write_signed(kept, tmp_path / "state.pt")
    trainer = trainer_of(with_dropout(seed=1))
    before = everything(trainer)
    with pytest.raises(ValueError, match=message) as caught:
        fit(trainer, tmp_path / "state.pt")
    assert "state.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(everything(trainer), before, rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"callbacks": {"RestoreBest": [{"tensor": 1}]}}, {"stepper": {"last_epoch": 1}}])
def test_a_state_that_a_part_of_the_training_cannot_take_in_is_refused_and_all_is_as_before(tmp_path, written, change):
    kept = torch.load(io.BytesIO(contents(written)))
    kept["content"] |= change
    write_signed(kept, tmp_path / "state.pt")
    trainer = trainer_of(with_dropout(seed=1))
    trainer.classifier.model.train()
    before = everything(trainer)
    with pytest.raises(ValueError, match=r"state\.pt must hold a state of this training, but does not"):
        fit(trainer, tmp_path / "state.pt")
    torch.testing.assert_close(everything(trainer), before, rtol=0, atol=0)


def test_a_file_that_another_training_writes_is_refused_before_anything_is_touched(tmp_path):
    path, trainer = tmp_path / "state.pt", trainer_of()
    before, state = copy.deepcopy(trainer.classifier.model.state_dict()), trainer._generator.get_state()
    with locked_file(path), pytest.raises(RuntimeError, match=r"may write .*state\.pt, but process .*name another one"):
        fit(trainer, path)
    torch.testing.assert_close(trainer.classifier.model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(trainer._generator.get_state(), state)
    with locked_file(tmp_path / "other.pt"):
        fit(trainer, path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_a_training_that_is_refused_by_its_file_leaves_no_folder_of_another_callback(tmp_path):
    (tmp_path / "state.pt").write_text("something else")
    trainer = trainer_of()
    with pytest.raises(ValueError, match=r"state\.pt, which is none"):
        fit(trainer, tmp_path / "state.pt", callbacks=[Checkpoint(tmp_path / "a" / "b")])
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_a_cut_while_the_file_is_written_leaves_the_one_before(tmp_path):
    path, replace, nb_written = tmp_path / "state.pt", Path.replace, []

    def cut_the_second(partial, target):
        nb_written.extend([target] if target == path else [])  # not of what marks the file
        if len(nb_written) == 2:
            raise KeyboardInterrupt
        return replace(partial, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", cut_the_second)
        with pytest.raises(KeyboardInterrupt):
            fit(trainer_of(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert_same(outcome(fit(trainer_of(), path)), outcome(fit(trainer_of(), None)))


class Stepped:
    """A scheduler that counts, and may say where it stands."""

    def __init__(self, start=0) -> None:
        self.count = start

    def step(self) -> None:
        self.count += 1


class Resumable(Stepped):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_a_scheduler_of_ones_own_goes_on_if_it_says_where_it_stands(tmp_path):
    with pytest.raises(ValueError, match=r"scheduler must have state_dict\(\) and load_state_dict\(\).*, got Stepped"):
        fit(trainer_of(), tmp_path / "state.pt", scheduler=Stepped())
    with pytest.raises(ValueError, match="scheduler must hold plain numbers and tensors to be read from a ResumeFile"):
        fit(trainer_of(), tmp_path / "state.pt", scheduler=Resumable(np.float64(0)))
    assert not (tmp_path / "state.pt").exists()
    with cut_in(5):
        fit(trainer_of(), tmp_path / "state.pt", scheduler=Resumable())
    scheduler = Resumable()
    fit(trainer_of(), tmp_path / "state.pt", scheduler=scheduler)
    assert scheduler.count == 3


@pytest.mark.parametrize(
    ("nb_before", "step", "is_clean"),
    [
        (0, 3, [True, True, False]),  # cut in the second of two clean epochs
        (0, 5, [True, True, False]),  # in the first step after them
        (2, 8, [True, False, False, False, False]),  # in the fourth step of a second training, which has none
    ],
)
def test_a_training_with_clean_epochs_that_is_cut_goes_on_as_if_uncut(tmp_path, nb_before, step, is_clean):
    def train(path, classifier):
        trainer = trainer_of(classifier, clean_share=0.7)
        if nb_before:
            fit(trainer, None, nb_epochs=nb_before)
        return fit(trainer, path)

    whole = train(None, with_dropout())
    with cut_in(step):
        train(tmp_path / "state.pt", with_dropout())
    fresh = fit(trainer_of(with_dropout(seed=1), clean_share=0.7), tmp_path / "state.pt")
    assert_same(outcome(fresh), outcome(whole))
    assert [math.isnan(record.robust) for record in fresh.history] == is_clean
