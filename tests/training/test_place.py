import dataclasses
import io
import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from art_oat import NFGSM
from art_oat.training import Callback, ResumeFile
from art_oat.training import resume_file as resume_file_module
from tests.training.test_guard import METHODS, collapsing_in, guarded
from tests.training.test_resume import (
    ATTACK,
    SCHEDULERS,
    VARIANTS,
    assert_same,
    contents,
    cut_in,
    diverging_in,
    everything,
    fit,
    outcome,
    trainer_of,
    with_dropout,
    write_signed,
)
from tests.training.trained import X, Y

LOADER = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 5, shuffle=True)


class Counter(Callback):
    """Counts the steps that are taken, and those of the whole training."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def on_step_end(self, nb_steps, metrics):
        self.numbers.append(nb_steps)


def fit_small_steps(trainer, path, *source, **options):
    """Three epochs of four steps each."""
    return fit(trainer, path, *source, **{"batch_size": 5, **options})


def assert_goes_on(path, train, step: int, written: int, per_step: int = 1) -> None:
    """A training that is cut in a step goes on after the last one that was written, to what an uncut one comes to."""
    whole, counter = train(None, 0), Counter()
    with cut_in((step - 1) * per_step + 1):
        train(path, 0)
    again = train(path, 1, callbacks=[counter])
    assert counter.numbers[0] == written + 1
    assert_same(outcome(again), outcome(whole))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("variant", [*VARIANTS, "shuffling loader"])
def test_a_training_cut_within_an_epoch_goes_on_from_the_last_step_written_as_if_uncut(tmp_path, variant):
    method, options, network = VARIANTS.get(variant, ({}, {"source": (LOADER,)}, {}))
    if variant == "loader":
        options = {"source": (DataLoader(LOADER.dataset, 5),)}

    def train(path, seed, **more):
        file = None if path is None else ResumeFile(path, every_steps=3)
        return fit_small_steps(trainer_of(with_dropout(seed, **network), **method), file, **options, **more)

    per_step = 3 if variant in ("all widths", "accumulated gradients") else 1
    assert_goes_on(
        tmp_path / "state.pt", train, 8, 6, per_step
    )  # in the last step of the second epoch, after its second


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("kind", "step", "written"),
    [*itertools.product(SCHEDULERS, [2], [1]), *((kind, 8, 7) for kind in SCHEDULERS if kind != "torch's cycle")],
)
def test_every_scheduler_goes_on_within_an_epoch(tmp_path, kind, step, written):
    def train(path, seed, **more):
        classifier = with_dropout(seed)
        scheduler = SCHEDULERS[kind](classifier.optimizer)
        file = None if path is None else ResumeFile(path, every_steps=1)
        nb_epochs = 1 if kind == "torch's cycle" else 3  # it has seven steps in all
        return fit_small_steps(trainer_of(classifier), file, scheduler=scheduler, nb_epochs=nb_epochs, **more)

    assert_goes_on(tmp_path / "state.pt", train, step, written)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("step", [6, 7, 8, 10, 11, 14])  # the second epoch and its second run have four steps each
def test_an_epoch_that_is_guarded_goes_on_in_its_middle_before_and_after_a_collapse(tmp_path, step):
    method, network = METHODS["average and augmentation"]

    def train(path):
        file = None if path is None else ResumeFile(path, every_steps=1)
        return fit_small_steps(guarded(with_dropout(**network), **method), file)

    with collapsing_in(2):
        whole = train(None)
    with collapsing_in(2), cut_in(step):
        train(tmp_path / "state.pt")
    with collapsing_in(1) as looks:
        again = train(tmp_path / "state.pt")
    assert looks == ([1] if step <= 8 else [])
    assert_same(outcome(again), outcome(whole))
    assert [record.is_undone for record in again.history] == [False, True, False, False]


@pytest.mark.slow(seconds=1)
def test_what_is_guarded_was_decided_when_the_epoch_began_though_the_radius_has_grown_since(tmp_path):
    def train(path, seed, **more):
        file = None if path is None else ResumeFile(path, every_steps=1)
        method = {"attack": NFGSM(eps=0.1), "fallback": ATTACK, "eps_warmup": 0.5}
        return fit_small_steps(trainer_of(with_dropout(seed), **method), file, **more)

    with collapsing_in(None) as looks:
        train(None, 0)
    assert looks == [1]
    with collapsing_in(None) as looks:
        assert_goes_on(tmp_path / "state.pt", train, 8, 7)
    assert looks == [1, 2]  # of the uncut training, and of that which went on


@pytest.mark.slow(seconds=1)
def test_cut_again_and_again_with_other_cadences_it_still_equals_the_uncut_one(tmp_path):
    path = tmp_path / "state.pt"
    for options in ({"every_steps": 1}, {}, {"every_minutes": 1e-9}, {"every_steps": 2}):
        with cut_in(3):
            fit_small_steps(trainer_of(), ResumeFile(path, **options))
    assert_same(outcome(fit_small_steps(trainer_of(), path)), outcome(fit_small_steps(trainer_of(), None)))


@pytest.mark.slow(seconds=1)
def test_the_file_is_written_when_its_steps_or_minutes_are_over_and_after_every_epoch(tmp_path, monkeypatch):
    now, steps, written = [0.0], Counter(), []

    class Watched(ResumeFile):
        def write(self, settings, content):
            written.append(content["nb_steps"])
            super().write(settings, content)

    class Clock(Callback):
        def on_step_end(self, nb_steps, metrics):
            now[0] += 60.0

    monkeypatch.setattr(resume_file_module.time, "monotonic", lambda: now[0])
    for options, expected in [
        ({}, [4, 8, 12]),
        ({"every_steps": 3}, [3, 4, 6, 8, 9, 12]),
        ({"every_minutes": 3}, [3, 4, 7, 8, 11, 12]),
        ({"every_steps": 2, "every_minutes": 1.5}, [2, 4, 6, 8, 10, 12]),
    ]:
        written.clear()
        file = Watched(tmp_path / f"{options}.pt", **options)
        fit_small_steps(trainer_of(), file, callbacks=[steps, Clock()])
        assert written == expected


def test_a_training_that_diverges_where_it_goes_on_goes_back_to_what_the_uncut_one_goes_back_to(tmp_path):
    left = []
    for path, losses, step in ((None, 7, None), (tmp_path / "state.pt", 99, 7), (tmp_path / "state.pt", 1, None)):
        trainer = trainer_of(with_dropout(), loss=diverging_in(losses), ema=None)
        file = None if path is None else ResumeFile(path, every_steps=1)
        if step is not None:
            with cut_in(step):
                fit_small_steps(trainer, file)
            continue
        with pytest.raises(RuntimeError, match="got a loss of nan in epoch 2"):
            fit_small_steps(trainer, file)
        left.append(dict(trainer.classifier.model.state_dict()))
    assert_same(left[0], left[1])


def test_weights_that_have_diverged_are_not_written_over_good_ones(tmp_path):
    class Breaks(torch.optim.SGD):
        nb_steps = 0

        def step(self, closure=None):
            super().step(closure)
            self.nb_steps += 1
            if self.nb_steps == 6:
                self.param_groups[0]["params"][0].data.fill_(math.inf)

    path = tmp_path / "state.pt"
    trainer = trainer_of(with_dropout(make_optimizer=lambda weights: Breaks(weights, lr=0.1)))
    with pytest.raises(RuntimeError, match="training must stay finite"):
        fit_small_steps(trainer, ResumeFile(path, every_steps=1))
    content = torch.load(io.BytesIO(contents(path)))["content"]
    assert content["nb_steps"] == 5
    assert all(tensor.isfinite().all() for tensor in content["step"]["tensors"])


@pytest.mark.slow(seconds=1)
def test_the_seconds_before_a_cut_count_and_the_metrics_are_of_the_whole_epoch(tmp_path):
    path = tmp_path / "state.pt"
    with cut_in(7):
        fit_small_steps(trainer_of(), ResumeFile(path, every_steps=1))
    kept = torch.load(io.BytesIO(contents(path)))
    kept["content"]["place"]["seconds"] = 1000.0
    write_signed(kept, path)
    again, whole = fit_small_steps(trainer_of(), path), fit_small_steps(trainer_of(), None)
    assert [record.seconds > 1000 for record in again.history] == [False, True, False]
    for first, second in zip(again.history, whole.history, strict=True):
        assert dataclasses.astuple(first)[3:7] == dataclasses.astuple(second)[3:7]  # rate, loss and accuracies


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (7, r"Going on in epoch 2 of 3, after step 2 of 4, from .*state\.pt, written \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\."),
        (5, r"Going on after epoch 1 of 3, from .*state\.pt, written .*\."),
        (13, r"The training in .*state\.pt, written .*, is complete\."),
    ],
)
def test_one_line_says_what_is_gone_on_with(tmp_path, capsys, step, said):
    file = ResumeFile(tmp_path / "state.pt", every_steps=1)
    if step <= 12:
        with cut_in(step):
            fit_small_steps(trainer_of(), file, verbose=True)
    else:
        fit_small_steps(trainer_of(), file, verbose=True)
    assert not re.search("Going on|complete", capsys.readouterr().err)
    fit_small_steps(trainer_of(), file, verbose=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "state.pt" in line]
    assert len(lines) == 1
    assert re.fullmatch(said, lines[0].strip("\r"))


FORGED = {
    "no batches": {"nb_batches": 0},
    "more batches than steps": {"nb_batches": 99},
    "no generators": {"begun": {}},
    "seconds that are NaN": {"seconds": math.nan},
    "something else to go back to": {"undo": {"nb_steps": 1}},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_place_that_no_training_can_be_at_is_refused_and_nothing_is_touched(tmp_path, name):
    path = tmp_path / "state.pt"
    with cut_in(7):
        fit_small_steps(trainer_of(), ResumeFile(path, every_steps=1))
    kept = torch.load(io.BytesIO(contents(path)))
    kept["content"]["place"] |= FORGED[name]
    write_signed(kept, path)
    trainer = trainer_of(with_dropout(seed=1))
    before = everything(trainer)
    with pytest.raises(ValueError, match="must be what fit wrote"):
        fit_small_steps(trainer, path)
    torch.testing.assert_close(everything(trainer), before, rtol=0, atol=0)


def test_a_loader_that_gives_less_than_was_taken_of_it_is_refused(tmp_path):
    class Shrinking(DataLoader):
        nb_batches = 4

        def __iter__(self):
            return itertools.islice(super().__iter__(), self.nb_batches)

    loader = Shrinking(LOADER.dataset, 5)
    with cut_in(4):
        fit_small_steps(trainer_of(), ResumeFile(tmp_path / "state.pt", every_steps=1), (loader,))
    loader.nb_batches = 2
    with pytest.raises(ValueError, match="an epoch must hold the 3 batches that were taken of it, got 2"):
        fit_small_steps(trainer_of(), tmp_path / "state.pt", (loader,))


def test_a_cadence_that_is_none_and_a_loader_without_an_end_are_refused(tmp_path):
    for options, named in [
        ({"every_steps": 0}, "every_steps must be a whole number, at least 1, got 0"),
        ({"every_steps": 2.5}, "every_steps must be a whole number"),
        ({"every_minutes": 0}, "every_minutes must be a number above 0, or None, got 0"),
        ({"every_minutes": np.inf, "every_steps": -1}, "every_steps .* every_minutes must be a number above 0"),
    ]:
        with pytest.raises(TypeError if options.get("every_steps") == 2.5 else ValueError, match=named):
            ResumeFile(tmp_path / "state.pt", **options)

    class Endless(IterableDataset):
        def __iter__(self):
            return zip(X, Y, strict=True)

    file = ResumeFile(tmp_path / "state.pt", every_minutes=1)
    with pytest.raises(ValueError, match="without every_steps and every_minutes with a loader of unknown length"):
        fit(trainer_of(), file, (DataLoader(Endless(), 5),), scheduler=None)


@pytest.mark.slow(seconds=1)
def test_a_cut_after_the_last_step_of_a_loader_that_promises_more_is_gone_on_with(tmp_path):
    """As several workers of an iterable data set do, where each of them has a smaller batch in the end."""

    class Promising(IterableDataset):
        def __iter__(self):
            return zip(X, Y, strict=True)

        def __len__(self):
            return 10 * len(X)

    class Cut(Callback):
        def on_epoch_end(self, record):
            raise KeyboardInterrupt

    def train(seed, *callbacks):
        return fit(
            trainer_of(with_dropout(seed)), None, (DataLoader(Promising(), 5),), callbacks=callbacks, scheduler=None
        )

    whole, file = train(0), ResumeFile(tmp_path / "state.pt", every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(0, Cut(), file)
    assert_same(outcome(train(1, file)), outcome(whole))


def test_the_file_of_a_cut_within_an_epoch_holds_its_place_and_no_data(tmp_path):
    with cut_in(7):
        fit_small_steps(trainer_of(), ResumeFile(tmp_path / "state.pt", every_steps=1))
    content = torch.load(io.BytesIO(contents(tmp_path / "state.pt")))["content"]
    assert (content["nb_done"], content["nb_steps"], content["place"]["nb_batches"]) == (1, 6, 2)
    assert content["step"]["metrics"]["nb_samples"] == 10
    assert set(content["place"]) == {"begun", "undo", "nb_batches", "seconds"}
    assert content["place"]["undo"]["nb_steps"] == 4
    assert content["place"]["undo"]["place"] is None
