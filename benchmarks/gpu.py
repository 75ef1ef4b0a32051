"""ResNet-18 on CIFAR-10, on one GPU: speed, the one network and dedicated ones, AutoAttack; in pieces, gone on with.

    python -m benchmarks.gpu --data-folder FOLDER --out OUT    # ends within 9 minutes; again until all is done
    python -m benchmarks.gpu --data-folder FOLDER --out OUT --only speed lam-1    # pieces by name, or by first word
    python -m benchmarks.gpu --out OUT --check                 # fails where a line is not reached, or not measured
    python -m benchmarks.gpu --smoke                           # half a minute on a processor, digits; keeps nothing

Pieces, in this order: "speed": images per second and share of the peak in bfloat16, of the trainings and of the first
at larger batches; "profile": one step of the first; then, for the one network, the dedicated ones of lam 1 and lam 0,
and TRADES at lam 1 (plain, by our trainer), "... training" (30 epochs, bfloat16, channels last; images lie on the GPU
as bytes, and are augmented there) and "... judging" (clean on all test images, AutoAttack on the first 1,000, at every
lam it is trained at; in float32, where cuDNN's convolutions use TF32, as torch has it by default).

A command begins no piece of which a part (an epoch, or half of the images at one lam) would not fit into the minutes
left, by the times of what was done before, and ends by itself when they are over, wherever it is. They count from when
everything is imported. The same command goes on, also after one that was killed: after the last whole epoch, or the
last images judged.

OUT/results has tables, profile and answers, written anew after every piece; OUT/weights has the networks, large tensors
in float16, see ``shards.py``. No file there is larger than 16 MiB. OUT/state is what to go on from: larger, and not
needed elsewhere. A small network may leave the GPU waiting for the processor (see the profile): commands with
different ``--only`` may then run side by side on one OUT, each training in a process of its own.

"mean gap to dedicated": the dedicated network less the one network, mean of clean accuracy at lam 0, clean accuracy at
lam 1, and AutoAttack at lam 1.
"""

import argparse
import fcntl
import gc
import itertools
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from art_oat import StratifiedSampling, load_model
from art_oat.experiment.recipe import Recipe
from art_oat.storage import read_rows, replaced, write_whole
from art_oat.training import Method
from art_oat.training.records import EpochRecord
from benchmarks import shards
from benchmarks.arms import LOG, recipe_of, train
from benchmarks.budget import Budget, OutOfTime
from benchmarks.comparison import SHARD_SIZE, judge, rows
from benchmarks.configs import Config, Part, full_size
from benchmarks.frontiers import Arm, Shares, accuracies
from benchmarks.tables import environment, text, write
from benchmarks.throughput import Peak, peak_of, profile_of, speed_of, tuned
from benchmarks.tradeoff import Claim

LARGEST = 16 * 2**20
"""Bytes of a file that is kept outside of OUT/state, at most."""

UNKNOWN = 20.0
"""Seconds that must be left for a piece of which nothing is known."""

LAST = 10.0
"""Seconds of a command that are kept for writing results."""

TRADES = "lam-1-trades"
METHODS = ("oat", "lam-1", "lam-0", TRADES)
_VARIANTS = {TRADES: {"lambdas": (1.0,), "film": None, "loss": "trades", "sampling": StratifiedSampling()}}

FULL = replace(full_size("resnet18"), judges=("autoattack",), variants=_VARIANTS)
SMALL = Config(
    Recipe(
        data="digits",
        network="small-8-16",
        nb_train=200,
        method=Method(attack="pgd-2", ema=0.9, precision="bf16"),
        nb_epochs=3,
        channels_last=True,
    ),
    nb_epochs_dedicated=2,
    nb_test=40,
    nb_robust=20,
    attacks_first=True,
    judges=("pgd-5",),
    variants=_VARIANTS,
)

CLAIMS = (
    Claim("clean at lam 1", low=0.80),
    Claim("robust at lam 1", low=0.45),
    Claim("clean at lam 0", low=0.92),
    Claim("mean gap to dedicated", high=0.015),
)
"""The lines to reach, of the one network; robust is by AutoAttack."""

Row = dict[str, object]
Found = dict[str, Any]


class Piece(NamedTuple):
    """A part of the work.

    Attributes:
        name: What it is called.
        work: Does it, or goes on with it; returns what is to be remembered of it.
        method: Of ``arms.py``, or a variant; empty where it is of all.
    """

    name: str
    work: Callable[["Kit", "Piece"], Found]
    method: str = ""

    def is_one_of(self, names: Sequence[str] | None) -> bool:
        """Whether a name is its own, or a first word of it; everything is one of None."""
        return names is None or any(f"{self.name} ".startswith(f"{name} ") for name in names)

    @property
    def file(self) -> str:
        """Return the name of the file that remembers it."""
        return self.name.replace(" ", "-") + ".json"


@dataclass(frozen=True)
class Kit:
    """What the work is done with.

    Attributes:
        config: What is trained and judged.
        out: The folder that everything goes to.
        budget: How much time there is.
        command: How it was asked for.
        nb_steps: How many steps are timed.
    """

    config: Config
    out: Path
    budget: Budget
    command: str = "python -m benchmarks.gpu"
    nb_steps: int = 30

    @property
    def state(self) -> Path:
        return self.out / "state"

    @property
    def results(self) -> Path:
        return self.out / "results"

    @cached_property
    def part(self) -> Part:
        """The images, read when they are first needed."""
        return next(self.config.parts())

    @cached_property
    def made_by(self) -> dict[str, object]:
        """What the results are made by, and where."""
        return environment(self.command, self.config.seeds)

    def recipe(self, method: str) -> Recipe:
        return recipe_of(method, self.config, self.config.seeds[0])

    def kept(self, piece: Piece) -> Found:
        """Return what is remembered of a piece: ``is_done``, ``seconds``, and what its work returned."""
        path = self.state / "pieces" / piece.file
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"is_done": False, "seconds": 0.0}

    def keep(self, piece: Piece, found: Found) -> None:
        with write_whole(self.state / "pieces" / piece.file) as file:
            json.dump(found, file, indent=2)

    def epochs(self, method: str) -> list[dict[str, str]]:
        """Return what is told of the epochs that a training has behind it."""
        path = self.state / method / LOG
        return read_rows(path) if path.exists() else []


def measure_speed(kit: Kit, piece: Piece) -> Found:
    """Time the steps of every training, and those of the one network at larger batches."""
    del piece
    peak, table = peak_of(_device()), []
    for method, factor in [*((method, 1) for method in METHODS), ("oat", 2), ("oat", 4)]:
        recipe = kit.recipe(method)
        recipe = recipe.changed(batch_size=factor * recipe.batch_size)
        table.append({"method": method, **speed_row(recipe, kit, peak)})
        gc.collect()  # a training lies in cycles, and its images with it
    print(text(table), flush=True)
    return {"rows": table, "peak": peak._asdict()}


def speed_row(recipe: Recipe, kit: Kit, peak: Peak) -> Row:
    speed = speed_of(recipe, kit.part.data, kit.nb_steps)
    epoch = len(kit.part.data.train.x) / speed.images
    return {
        "batch": speed.nb_samples,
        "images/s": round(speed.images, 1),
        "ms per step": round(1e3 * speed.seconds, 3),
        "GFLOP per image": round(speed.flops / speed.nb_samples / 1e9, 6),
        "TFLOP/s": round(speed.flops / speed.seconds / 1e12, 3),
        "share of the peak": round(speed.share(peak.rate), 4),
        "GB on the GPU": round(speed.nb_bytes / 1e9, 2),
        "seconds per epoch": round(epoch, 2),
        "minutes of training": round(epoch * _robust_epochs(recipe) / 60, 1),
    }


def _robust_epochs(recipe: Recipe, nb_done: int = 0) -> float:
    """Return what is left of a training in epochs with an attack; a clean one takes about an eighth of such a one."""
    nb_clean = round(recipe.method.clean_share * recipe.nb_epochs)
    return recipe.nb_epochs - max(nb_clean, nb_done) + max(nb_clean - nb_done, 0) / 8


def take_profile(kit: Kit, piece: Piece) -> Found:
    """Write down where one step of the one network spends its time; leave the trace out where it is too large."""
    del piece
    trace = kit.state / "trace.json.gz"
    found = profile_of(kit.recipe("oat"), kit.part.data, kit.nb_steps, trace)
    with write_whole(kit.results / "profile.txt") as file:
        file.write(found.text())
    if trace.stat().st_size <= LARGEST:
        trace.replace(kit.results / trace.name)
    print("\n".join(found.text().splitlines()[:2]), flush=True)
    return {"seconds per step": found.seconds, "busy": found.busy, "kernels": found.nb_kernels, "waits": found.waits}


def train_one(kit: Kit, piece: Piece) -> Found:
    """Train by one method, and leave its weights in small files."""
    nb_epochs = kit.recipe(piece.method).nb_epochs

    def tell(record: EpochRecord) -> None:
        print(
            f"{piece.name}: epoch {record.epoch} of {nb_epochs} in {record.seconds:.1f} s, loss {record.loss:.3f}, "
            f"clean {record.clean:.3f}, robust {record.robust:.3f}; {kit.budget.left():.0f} s left",
            flush=True,
        )

    folder = kit.state / piece.method
    with tuned():
        trained = train(piece.method, kit.config, kit.part, folder, callback=tell)
    shards.split(folder, kit.out / "weights", piece.method)
    return {
        "training seconds": trained.seconds,
        "nb_images": len(kit.part.data.train.x),
        "bytes": trained.nb_bytes,
        "commit": trained.commit,
    }


def judge_one(kit: Kit, piece: Piece) -> Found:
    """Judge one network at every lam that it is trained at; keep every answer."""
    folder, layout = kit.state / piece.method, torch.contiguous_format
    if kit.config.recipe.channels_last:
        layout = torch.channels_last
    model = load_model(folder).to(memory_format=layout)  # type: ignore[call-overload]
    clean, stands = judge(model, kit.config, kit.part, folder, 1)
    right = np.full((1 + len(stands), *clean.shape), np.nan)
    right[0], right[1:, :, kit.config.attacked(kit.part)] = clean, stands
    with replaced(folder / "answers.npz") as partial:
        np.savez_compressed(partial, right=np.nan_to_num(right, nan=_NOT_ASKED).astype(np.int8))
    return {"lambdas": model.lambdas}


_NOT_ASKED = -1


def pieces() -> list[Piece]:
    """Return all pieces, in order."""
    of_methods = [
        (Piece(f"{method} training", train_one, method), Piece(f"{method} judging", judge_one, method))
        for method in METHODS
    ]
    return [Piece("speed", measure_speed), Piece("profile", take_profile), *itertools.chain.from_iterable(of_methods)]


def forecast(kit: Kit, piece: Piece) -> tuple[float, float]:
    """Return the seconds of the smallest part of a piece, and of all that is left of it; NaN where nothing is known."""
    if kit.kept(piece)["is_done"]:
        return 0.0, 0.0
    if piece.work is train_one:
        done = kit.epochs(piece.method)
        recipe = kit.recipe(piece.method)
        is_robust = len(done) > round(recipe.method.clean_share * recipe.nb_epochs)
        seconds = float(done[-1]["seconds"]) if is_robust else _epoch_as_timed(kit, piece.method)
        return seconds, seconds * _robust_epochs(recipe, len(done))
    if piece.work is judge_one:
        seconds = max((_seconds_at_a_lam(kit.kept(it)) for it in pieces() if it.work is judge_one), default=0.0)
        nb_shards = math.ceil((kit.config.nb_robust or SHARD_SIZE) / SHARD_SIZE)
        known = seconds or math.nan
        return known / nb_shards, known * len(kit.recipe(piece.method).lambdas)
    return math.nan, math.nan


def _epoch_as_timed(kit: Kit, method: str) -> float:
    table = kit.kept(pieces()[0]).get("rows", [])
    return next((float(row["seconds per epoch"]) for row in table if row["method"] == method), math.nan)


def _seconds_at_a_lam(kept: Found) -> float:
    return kept["seconds"] / len(kept["lambdas"]) if kept["is_done"] else 0.0


def settle(kit: Kit) -> None:
    """Note what is trained, or refuse a folder in which something else is.

    Raises:
        ValueError: If the folder holds other settings.
    """
    path = kit.state / "recipe.json"
    settings = json.loads(json.dumps({**kit.recipe("oat").as_values(), "data_folder": None}))
    with _alone(kit.state):
        if not path.exists():
            with write_whole(path) as file:
                json.dump(settings, file, indent=2)
        kept = json.loads(path.read_text(encoding="utf-8"))
    if different := [name for name in settings | kept if settings.get(name) != kept.get(name)]:
        raise ValueError(f"--out must hold the same training, but {kit.out} has another {', '.join(different)}.")


def work(kit: Kit, asked: Sequence[Piece]) -> bool:
    """Do pieces in their order, as far as the time goes; after each, and in the end, write the results.

    Where a piece fails, the others are done nevertheless, but for those of the same method.

    Returns:
        Whether none failed.
    """
    failed: list[Piece] = []
    try:
        with kit.budget.enforced():
            for piece in asked:
                if kit.kept(piece)["is_done"] or piece.method in {it.method for it in failed if it.method}:
                    continue
                if not _is_begun(kit, piece):
                    break
                try:
                    do(kit, piece)
                except Exception:  # noqa: BLE001 - whatever one piece raises, the time of the others is dear
                    traceback.print_exc(file=sys.stdout)
                    failed.append(piece)
                report(kit)
    except OutOfTime:
        print("The time is up.", flush=True)
    report(kit)
    show(kit)
    print("\n".join(f"{piece.name} FAILED, see above." for piece in failed), end="\n" * bool(failed), flush=True)
    return not failed


def _is_begun(kit: Kit, piece: Piece) -> bool:
    """Whether there is time for a part of a piece; say so."""
    least, _ = forecast(kit, piece)
    is_begun = kit.budget.fits(UNKNOWN if math.isnan(least) else least)
    what = "..." if is_begun else f"is not begun: {kit.budget.left():.0f} s are too few."
    print(f"{piece.name} {what}", flush=True)
    return is_begun


def do(kit: Kit, piece: Piece) -> None:
    """Do one piece, or go on with it; remember how long it took, also where it is cut."""
    kept, started = kit.kept(piece), kit.budget.clock()
    found: Found = {}
    try:
        found = {"is_done": True, **piece.work(kit, piece)}
    finally:
        seconds = kept["seconds"] + kit.budget.clock() - started
        kit.keep(piece, {**kept, **found, "seconds": seconds})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"{piece.name} is done, in {seconds:.0f} s.", flush=True)


def arms(kit: Kit) -> list[Arm]:
    """Return every method that is judged."""
    found = []
    for training, judging in itertools.pairwise(pieces()):
        if judging.work is judge_one and kit.kept(judging)["is_done"]:
            kept, lambdas = kit.kept(training), tuple(kit.kept(judging)["lambdas"])
            right = _answers(kit.state / judging.method)[:, :, np.newaxis]
            seconds, nb_bytes = kept["training seconds"], kept["bytes"]
            found.append(Arm(judging.method, lambdas, right, seconds, "wall", nb_bytes, kept["commit"]))
    return found


def _answers(folder: Path) -> Shares:
    with np.load(folder / "answers.npz") as file:
        right = file["right"].astype(float)
    return np.where(right == _NOT_ASKED, np.nan, right)


def figures(arms: Sequence[Arm]) -> dict[str, float]:
    """Return what the lines are about, as far as it is measured; fractions."""
    found = {
        name: dict(zip(arm.lambdas, accuracies(arm)[0].T.tolist(), strict=True)) for arm in arms if (name := arm.name)
    }
    one = found.get("oat", {})
    result = {
        f"{what} at lam {lam:g}": one[lam][place] for lam in one for place, what in ((0, "clean"), (-1, "robust"))
    }
    places = ((0.0, 0), (1.0, 0), (1.0, -1))
    if one and {"lam-0", "lam-1"} <= found.keys():
        gaps = [found[f"lam-{lam:g}"][lam][place] - one[lam][place] for lam, place in places]
        result["mean gap to dedicated"] = sum(gaps) / len(gaps)
    return result


def verdicts(found: Mapping[str, float]) -> list[Row]:
    """Put what was measured beside the lines to reach, in percent."""
    return [
        {
            "figure": claim.figure,
            "line": f">= {100 * claim.low:g}" if math.isfinite(claim.low) else f"<= {100 * claim.high:g}",
            "measured": f"{100 * found[claim.figure]:.2f}" if claim.figure in found else "",
            "verdict": _verdict(claim, found),
        }
        for claim in CLAIMS
    ]


def _verdict(claim: Claim, found: Mapping[str, float]) -> str:
    if claim.figure not in found:
        return "not measured yet"
    return "holds" if claim.is_kept(found) else "FAILS"


def status(kit: Kit) -> list[Row]:
    """Say of every piece how long it took, and how long it will still take."""
    table: list[Row] = []
    for piece in pieces():
        kept, (_, left) = kit.kept(piece), forecast(kit, piece)
        state = "done" if kept["is_done"] else "begun" if kept["seconds"] else "to do"
        if state != "done" and piece.work is train_one:
            state = f"{len(kit.epochs(piece.method))} of {kit.recipe(piece.method).nb_epochs} epochs"
        table.append(
            {
                "piece": piece.name,
                "state": state,
                "seconds": f"{kept['seconds']:.0f}",
                "seconds left": "?" if math.isnan(left) else f"{left:.0f}",
            }
        )
    return table


def trainings(kit: Kit) -> list[Row]:
    """Return a row per epoch of every training."""
    speed, table = kit.kept(pieces()[0]), []
    flops = {row["method"]: 1e9 * row["GFLOP per image"] for row in reversed(speed.get("rows", []))}
    for piece in pieces():
        for row in kit.epochs(piece.method) if piece.work is train_one else ():
            rates: Row = {}
            if "nb_images" in (kept := kit.kept(piece)):
                images = kept["nb_images"] / float(row["seconds"])
                rates["images/s"] = f"{images:.0f}"
                if piece.method in flops:
                    rates["share of the peak"] = f"{images * flops[piece.method] / speed['peak']['rate']:.4f}"
            table.append({"method": piece.method, **row, **rates})
    return table


def report(kit: Kit) -> None:
    """Write all results anew; no other command does so meanwhile."""
    with _alone(kit.state):
        judged, kept = arms(kit), {piece.name: kit.kept(piece) for piece in pieces()}
        found, accurate = figures(judged), rows(judged, kit.config)
        tables = {"accuracies": accurate, "speed": kept["speed"].get("rows", []), "training": trainings(kit)}
        for name, table in tables.items():
            if table:
                write(kit.results / f"{name}.csv", table, kit.made_by)
        whole = {"made by": kit.made_by, "recipe": kit.recipe("oat").as_values(), "pieces": kept, "figures": found}
        with write_whole(kit.results / "results.json") as file:
            json.dump({**whole, "lines": verdicts(found), **tables}, file, indent=2, default=np.generic.item)
        answers: dict[str, Any] = {arm.name: arm.right[:, :, 0].astype(np.float16) for arm in judged}
        if answers:
            with replaced(kit.results / "answers.npz") as partial:
                np.savez_compressed(partial, **answers)


def show(kit: Kit) -> None:
    """Show accuracies, the lines to reach, and what is left."""
    judged = arms(kit)
    columns = ("method", "lam", *(f"{it}{end}" for it in ("clean", *kit.config.judges) for end in ("", " s.e.")))
    accurate: list[Row] = [{name: row[name] for name in columns} for row in rows(judged, kit.config)]
    for table in (accurate, verdicts(figures(judged)), status(kit)):
        if table:
            print(text(table), end="\n\n", flush=True)
    for path in too_large(kit.out):
        print(f"{path} is larger than 16 MiB.", flush=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other command into such a block meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def too_large(out: Path) -> list[Path]:
    """Return the files outside of OUT/state that are larger than they may be."""
    folders = (out / "results", out / "weights")
    return [path for folder in folders for path in folder.glob("*") if path.stat().st_size > LARGEST]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", metavar="FOLDER", help="where CIFAR-10 lies")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder that everything goes to")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the command ends")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="pieces of these names, or first words")
    parser.add_argument("--batch-size", type=int, help="images per step, in place of the recipe's 128")
    parser.add_argument("--learning-rate", type=float, help="largest of the schedule, in place of the recipe's 0.2")
    parser.add_argument("--nb-epochs", type=int, help="of every training, in place of 30")
    parser.add_argument("--check", action="store_true", help="do nothing more; fail where a line is not reached")
    parser.add_argument("--smoke", action="store_true", help="a minute on digits; keeps nothing")
    given = parser.parse_args(words)
    known = {word for piece in pieces() for word in (piece.name, piece.name.partition(" ")[0])}
    if unknown := set(given.only or ()) - known:
        parser.error(f"--only must be some of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}.")
    if not (given.smoke or given.check or given.data_folder):
        parser.error("--data-folder must say where CIFAR-10 lies.")
    return given


def config_of(given: argparse.Namespace) -> Config:
    """Return what is asked for."""
    config = (SMALL if given.smoke else FULL).in_folder(given.data_folder)
    asked = {name: getattr(given, name) for name in ("batch_size", "learning_rate", "nb_epochs")}
    changes = {name: value for name, value in asked.items() if value is not None}
    return replace(
        config,
        recipe=config.recipe.changed(**changes),
        nb_epochs_dedicated=given.nb_epochs or config.nb_epochs_dedicated,
    )


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would tell its own stages
    is_well = True
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if given.smoke else given.out
        budget = Budget(60 * given.minutes - LAST)
        kit = Kit(config_of(given), out, budget, nb_steps=2 if given.smoke else 30)
        if not given.check:
            settle(kit)
            is_well = work(kit, [piece for piece in pieces() if piece.is_one_of(given.only)])
        lines = verdicts(figures(arms(kit)))
    if given.check:
        print(text(lines))
        is_well = all(line["verdict"] == "holds" for line in lines)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
