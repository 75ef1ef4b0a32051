"""ResNet-18 on CIFAR-10, on one GPU: speed, the one network and dedicated ones, AutoAttack; in pieces that continue.

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
everything is imported. The same command continues, also after one that was killed: after the last whole epoch, or the
last images judged.

OUT/results has tables, profile and answers, written anew after every piece; OUT/weights has the networks, large tensors
in float16, see ``shards.py``. No file there is larger than 16 MiB. OUT/state is what to continue from: larger, and not
needed elsewhere. A small network may leave the GPU waiting for the processor (see the profile): commands with
different ``--only`` may then run side by side on one OUT, each training in a process of its own.

"mean gap to dedicated": the dedicated network less the one network, mean of clean accuracy at lam 0, clean accuracy at
lam 1, and AutoAttack at lam 1.
"""

import argparse
import gc
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_oat import StratifiedSampling, load_model
from art_oat.experiment.recipe import Recipe
from art_oat.storage import replaced, write_whole
from art_oat.training import EpochRecord, Method
from benchmarks import shards
from benchmarks.arms import train
from benchmarks.budget import Budget, OutOfTime
from benchmarks.comparison import judge, rows
from benchmarks.configs import Config, full_size
from benchmarks.gpu_kit import (
    LARGEST,
    METHODS,
    NOT_ASKED,
    TRADES,
    UNKNOWN,
    Kept,
    Kit,
    Piece,
    figures,
    forecast,
    judged,
    report,
    robust_epochs,
    status,
    too_large,
    verdicts,
)
from benchmarks.study import parser
from benchmarks.tables import Row, text
from benchmarks.throughput import peak_of, profile_of, speed_of, tuned

LAST = 10.0
"""Seconds of a command that are kept for writing results."""

_VARIANTS = {TRADES: {"lambdas": (1.0,), "film": None, "loss": "trades", "sampling": StratifiedSampling()}}
FULL = replace(full_size("resnet18"), judges=("autoattack",), variants=_VARIANTS)
_SMALL = Recipe(
    data="digits",
    network="small-8-16",
    nb_train=200,
    method=Method(attack="pgd-2", ema=0.9, precision="bf16"),
    nb_epochs=3,
    channels_last=True,
)
SMALL = replace(FULL, recipe=_SMALL, nb_epochs_dedicated=2, nb_test=40, nb_robust=20, judges=("pgd-5",))


def measure_speed(kit: Kit, _: Piece) -> Kept:
    """Time the steps of every training, and those of the one network at larger batches."""
    peak, table = peak_of(torch.device("cuda" if torch.cuda.is_available() else "cpu")), []
    for method, factor in [*((method, 1) for method in METHODS), ("oat", 2), ("oat", 4)]:
        recipe = kit.recipe(method)
        recipe = recipe.changed(batch_size=factor * recipe.batch_size)
        row = speed_of(recipe, kit.part.data, kit.nb_steps).row(peak.rate, len(kit.part.data.train.x))
        minutes = row["seconds per epoch"] * robust_epochs(recipe) / 60
        table.append({"method": method, **row, "minutes of training": round(minutes, 1)})
        gc.collect()  # a training lies in cycles, and its images with it
    print(text(table), flush=True)
    return {"rows": table, "peak": peak._asdict()}


def take_profile(kit: Kit, _: Piece) -> Kept:
    """Write down where one step of the one network spends its time; leave the trace out where it is too large."""
    trace = kit.state / "trace.json.gz"
    found = profile_of(kit.recipe("oat"), kit.part.data, kit.nb_steps, trace)
    with write_whole(kit.results / "profile.txt") as file:
        file.write(found.text())
    if trace.stat().st_size <= LARGEST:
        trace.replace(kit.results / trace.name)
    print("\n".join(found.text().splitlines()[:2]), flush=True)
    return {"seconds per step": found.seconds, "busy": found.busy, "kernels": found.nb_kernels, "waits": found.waits}


def train_one(kit: Kit, piece: Piece) -> Kept:
    """Train by one method, and leave its weights in small files."""
    nb_epochs, folder = kit.recipe(piece.method).nb_epochs, kit.state / piece.method

    def tell(record: EpochRecord) -> None:
        print(
            f"{piece.name}: epoch {record.epoch} of {nb_epochs} in {record.seconds:.1f} s, loss {record.loss:.3f}, "
            f"clean {record.clean:.3f}, robust {record.robust:.3f}; {kit.budget.left():.0f} s left",
            flush=True,
        )

    with tuned():
        trained = train(piece.method, kit.config, kit.part, folder, callback=tell)
    shards.split(folder, kit.out / "weights", piece.method)
    found = {"training seconds": trained.seconds, "nb_images": len(kit.part.data.train.x)}
    return found | {"bytes": trained.nb_bytes, "commit": trained.commit}


def judge_one(kit: Kit, piece: Piece) -> Kept:
    """Judge one network at every lam that it is trained at; keep every answer."""
    folder, layout = kit.state / piece.method, torch.contiguous_format
    if kit.config.recipe.channels_last:
        layout = torch.channels_last
    model = load_model(folder).to(memory_format=layout)  # type: ignore[call-overload]
    clean, robust = judge(model, kit.config, kit.part, folder)
    right = np.full((1 + len(robust), *clean.shape), np.nan)
    right[0], right[1:, :, kit.config.attacked(kit.part)] = clean, robust
    with replaced(folder / "answers.npz") as partial:
        np.savez_compressed(partial, right=np.nan_to_num(right, nan=NOT_ASKED).astype(np.int8))
    return {"lambdas": model.lambdas}


def pieces() -> list[Piece]:
    """Return all pieces, in order."""
    kinds = {"training": train_one, "judging": judge_one}
    of_methods = [Piece(f"{method} {kind}", work, method) for method in METHODS for kind, work in kinds.items()]
    return [Piece("speed", measure_speed), Piece("profile", take_profile), *of_methods]


def work(kit: Kit, asked: Sequence[Piece]) -> bool:
    """Do pieces in their order, as far as the time goes; after each, and in the end, write the results.

    Where a piece fails, the others are done nevertheless, but for those of the same method.

    Returns:
        Whether none failed.
    """
    failed: list[Piece] = []
    names = [piece.name for piece in pieces()]
    try:
        with kit.budget.enforced():
            for piece in asked:
                if kit.kept(piece.name)["is_done"] or piece.method in {it.method for it in failed if it.method}:
                    continue
                if not _is_begun(kit, piece):
                    break
                try:
                    do(kit, piece)
                except Exception:  # noqa: BLE001 - whatever one piece raises, the time of the others is dear
                    traceback.print_exc(file=sys.stdout)
                    failed.append(piece)
                report(kit, names)
    except OutOfTime:
        print("The time is up.", flush=True)
    report(kit, names)
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
    """Do one piece, or continue it; remember how long it took, also where it is cut."""
    kept, started = kit.kept(piece.name), kit.budget.clock()
    found: Kept = {}
    try:
        found = {"is_done": True, **piece.work(kit, piece)}
    finally:
        seconds = kept["seconds"] + kit.budget.clock() - started
        kit.keep(piece.name, {**kept, **found, "seconds": seconds})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"{piece.name} is done, in {seconds:.0f} s.", flush=True)


def show(kit: Kit) -> None:
    """Show accuracies, the lines to reach, and what is left."""
    arms = judged(kit)
    columns = ("method", "lam", *(f"{it}{end}" for it in ("clean", *kit.config.judges) for end in ("", " s.e.")))
    accurate: list[Row] = [{name: row[name] for name in columns} for row in rows(arms, kit.config)]
    for table in (accurate, verdicts(figures(arms)), [status(kit, piece) for piece in pieces()]):
        if table:
            print(text(table), end="\n\n", flush=True)
    for path in too_large(kit.out):
        print(f"{path} is larger than 16 MiB.", flush=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "--data-folder": {"metavar": "FOLDER", "help": "where CIFAR-10 lies"},
    "--out": {"type": Path, "default": Path("runs/gpu"), "help": "folder that everything goes to"},
    "--minutes": {"type": float, "default": 9.0, "help": "after which the command ends"},
    "--only": {"nargs": "+", "metavar": "NAME", "help": "pieces of these names, or first words"},
    "--batch-size": {"type": int, "help": "images per step, in place of the recipe's 128"},
    "--learning-rate": {"type": float, "help": "largest of the schedule, in place of the recipe's 0.2"},
    "--nb-epochs": {"type": int, "help": "of every training, in place of 30"},
    "--check": {"action": "store_true", "help": "do nothing more; fail where a line is not reached"},
}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    asking = parser(__doc__, OPTIONS)
    given = asking.parse_args(words)
    known = {word for piece in pieces() for word in (piece.name, piece.name.partition(" ")[0])}
    if unknown := set(given.only or ()) - known:
        asking.error(f"--only must be some of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}.")
    if not (given.smoke or given.check or given.data_folder):
        asking.error("--data-folder must say where CIFAR-10 lies.")
    return given


def config_of(given: argparse.Namespace) -> Config:
    """Return what is asked for."""
    config = (SMALL if given.smoke else FULL).in_folder(given.data_folder)
    asked = {name: getattr(given, name) for name in ("batch_size", "learning_rate", "nb_epochs")}
    recipe = config.recipe.changed(**{name: value for name, value in asked.items() if value is not None})
    return replace(config, recipe=recipe, nb_epochs_dedicated=given.nb_epochs or config.nb_epochs_dedicated)


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would tell its own stages
    is_well = True
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if given.smoke else given.out
        kit = Kit(config_of(given), out, Budget(60 * given.minutes - LAST), nb_steps=2 if given.smoke else 30)
        if not given.check:
            kit.settle()
            is_well = work(kit, [piece for piece in pieces() if piece.is_one_of(given.only)])
        lines = verdicts(figures(judged(kit)))
    if given.check:
        print(text(lines))
        is_well = all(line["verdict"] == "holds" for line in lines)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
