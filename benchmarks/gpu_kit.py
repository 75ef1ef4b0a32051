"""What the pieces of ``gpu.py`` share: settings, time, folders, what is remembered, and the tables of results."""

import fcntl
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from art_oat.experiment.recipe import Recipe
from art_oat.storage import read_rows, replaced, write_json
from benchmarks.arms import LOG, recipe_of
from benchmarks.budget import Budget
from benchmarks.comparison import SHARD_SIZE, rows
from benchmarks.configs import Config, Part
from benchmarks.frontiers import Arm, Shares, accuracies
from benchmarks.tables import Row, environment, write
from benchmarks.tradeoff import Claim

LARGEST = 16 * 2**20
"""Bytes of a file that is kept outside of OUT/state, at most."""

TRADES = "lam-1-trades"
METHODS = ("oat", "lam-1", "lam-0", TRADES)
CLAIMS = (
    Claim("clean at lam 1", low=0.80),
    Claim("robust at lam 1", low=0.45),
    Claim("clean at lam 0", low=0.92),
    Claim("mean gap to dedicated", high=0.015),
)
"""The lines to reach, of the one network; robust is by AutoAttack."""

NOT_ASKED = -1
Kept = dict[str, Any]


UNKNOWN = 20.0
"""Seconds that must be left for a piece of which nothing is known."""


class Piece(NamedTuple):
    """A part of the work.

    Attributes:
        name: What it is called.
        work: Does it, or continues it; returns what is to be remembered of it.
        method: Of ``arms.py``, or a variant; empty where it is of all.
    """

    name: str
    work: Callable[[Any, Any], Kept]
    method: str = ""

    def is_one_of(self, names: Sequence[str] | None) -> bool:
        """Whether a name is its own, or a first word of it; everything is one of None."""
        return names is None or any(f"{self.name} ".startswith(f"{name} ") for name in names)


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

    def recipe(self, method: str) -> Recipe:
        return recipe_of(method, self.config, self.config.seeds[0])

    def kept(self, name: str) -> Kept:
        """Return what is remembered of a piece: ``is_done``, ``seconds``, and what its work returned."""
        path = self._path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"is_done": False, "seconds": 0.0}

    def keep(self, name: str, found: Kept) -> None:
        write_json(self._path(name), found)

    def _path(self, name: str) -> Path:
        return self.state / "pieces" / f"{name.replace(' ', '-')}.json"

    def epochs(self, method: str) -> list[dict[str, str]]:
        """Return what is told of the epochs that a training has behind it."""
        path = self.state / method / LOG
        return read_rows(path) if path.exists() else []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other command into such a block meanwhile."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def settle(self) -> None:
        """Note what is trained, or refuse a folder in which something else is.

        Raises:
            ValueError: If the folder holds other settings.
        """
        path = self.state / "recipe.json"
        settings = json.loads(json.dumps({**self.recipe("oat").as_values(), "data_folder": None}))
        with self.alone():
            if not path.exists():
                write_json(path, settings)
            kept = json.loads(path.read_text(encoding="utf-8"))
        if different := [name for name in settings | kept if settings.get(name) != kept.get(name)]:
            raise ValueError(f"--out must hold the same training, but {self.out} has another {', '.join(different)}.")


def robust_epochs(recipe: Recipe, nb_done: int = 0) -> float:
    """Return what is left of a training in epochs with an attack; a clean one takes about an eighth of such a one."""
    nb_clean = round(recipe.method.clean_share * recipe.nb_epochs)
    return recipe.nb_epochs - max(nb_clean, nb_done) + max(nb_clean - nb_done, 0) / 8


def forecast(kit: Kit, piece: Piece) -> tuple[float, float]:
    """Return the seconds of the smallest part of a piece, and of all that is left of it; NaN where nothing is known."""
    if kit.kept(piece.name)["is_done"]:
        return 0.0, 0.0
    if piece.name.endswith(" training"):
        done, recipe = kit.epochs(piece.method), kit.recipe(piece.method)
        timed = (
            float(row["seconds per epoch"])
            for row in kit.kept("speed").get("rows", [])
            if row["method"] == piece.method
        )
        is_robust = len(done) > round(recipe.method.clean_share * recipe.nb_epochs)
        seconds = float(done[-1]["seconds"]) if is_robust else next(timed, math.nan)
        return seconds, seconds * robust_epochs(recipe, len(done))
    if piece.name.endswith(" judging"):
        known = [kept for method in METHODS if (kept := kit.kept(f"{method} judging"))["is_done"]]
        seconds = max((kept["seconds"] / len(kept["lambdas"]) for kept in known), default=math.nan)
        nb_shards = math.ceil((kit.config.nb_robust or SHARD_SIZE) / SHARD_SIZE)
        return seconds / nb_shards, seconds * len(kit.recipe(piece.method).lambdas)
    return math.nan, math.nan


def status(kit: Kit, piece: Piece) -> Row:
    """Say of a piece how long it took, and how long it will still take."""
    kept, (_, left) = kit.kept(piece.name), forecast(kit, piece)
    state = "done" if kept["is_done"] else "begun" if kept["seconds"] else "to do"
    if state != "done" and piece.name.endswith(" training"):
        state = f"{len(kit.epochs(piece.method))} of {kit.recipe(piece.method).nb_epochs} epochs"
    row: Row = {"piece": piece.name, "state": state, "seconds": f"{kept['seconds']:.0f}"}
    return row | {"seconds left": "?" if math.isnan(left) else f"{left:.0f}"}


def answers(folder: Path) -> Shares:
    """Return the answers of a network: clean and attacked ``[2, lams, N]``, NaN where it was not asked."""
    with np.load(folder / "answers.npz") as file:
        right = file["right"].astype(float)
    return np.where(right == NOT_ASKED, np.nan, right)


def judged(kit: Kit) -> list[Arm]:
    """Return every method that is judged."""
    found = []
    for method in METHODS:
        training, judging = kit.kept(f"{method} training"), kit.kept(f"{method} judging")
        if judging["is_done"]:
            right = answers(kit.state / method)[:, :, np.newaxis]
            about = training["training seconds"], "wall", training["bytes"], training["commit"]
            found.append(Arm(method, tuple(judging["lambdas"]), right, *about))
    return found


def figures(arms: Sequence[Arm]) -> dict[str, float]:
    """Return what the lines are about, as far as it is measured; fractions."""
    found = {arm.name: dict(zip(arm.lambdas, accuracies(arm)[0].T.tolist(), strict=True)) for arm in arms}
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
    table: list[Row] = []
    for claim in CLAIMS:
        line = f">= {100 * claim.low:g}" if math.isfinite(claim.low) else f"<= {100 * claim.high:g}"
        measured, verdict = "", "not measured yet"
        if claim.figure in found:
            measured = f"{100 * found[claim.figure]:.2f}"
            verdict = "holds" if claim.is_kept(found) else "FAILS"
        table.append({"figure": claim.figure, "line": line, "measured": measured, "verdict": verdict})
    return table


def trainings(kit: Kit) -> list[Row]:
    """Return a row per epoch of every training."""
    speed, table = kit.kept("speed"), []
    flops = {row["method"]: 1e9 * row["GFLOP per image"] for row in reversed(speed.get("rows", []))}
    for method in METHODS:
        for row in kit.epochs(method):
            rates: Row = {}
            if "nb_images" in (kept := kit.kept(f"{method} training")):
                images = kept["nb_images"] / float(row["seconds"])
                rates["images/s"] = f"{images:.0f}"
                if method in flops:
                    rates["share of the peak"] = f"{images * flops[method] / speed['peak']['rate']:.4f}"
            table.append({"method": method, **row, **rates})
    return table


def report(kit: Kit, names: Sequence[str]) -> None:
    """Write all results anew; no other command does so meanwhile."""
    made_by = environment(kit.command, kit.config.seeds)
    with kit.alone():
        arms, kept = judged(kit), {name: kit.kept(name) for name in names}
        found, accurate = figures(arms), rows(arms, kit.config)
        tables = {"accuracies": accurate, "speed": kit.kept("speed").get("rows", []), "training": trainings(kit)}
        for name, table in tables.items():
            if table:
                write(kit.results / f"{name}.csv", table, made_by)
        whole = {"made by": made_by, "recipe": kit.recipe("oat").as_values(), "pieces": kept, "figures": found}
        plain = json.loads(json.dumps({**whole, "lines": verdicts(found), **tables}, default=np.generic.item))
        write_json(kit.results / "results.json", plain)
        if arms:
            with replaced(kit.results / "answers.npz") as partial:
                right: dict[str, Any] = {arm.name: arm.right[:, :, 0].astype(np.float16) for arm in arms}
                np.savez_compressed(partial, **right)


def too_large(out: Path) -> list[Path]:
    """Return the files outside of OUT/state that are larger than they may be."""
    folders = (out / "results", out / "weights")
    return [path for folder in folders for path in folder.glob("*") if path.stat().st_size > LARGEST]
