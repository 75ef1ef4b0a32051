import csv
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from art_oat import TradeoffCurve, load_model
from art_oat.data import Split
from art_oat.evaluation.shards import Shard
from art_oat.experiment import run
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.lock import LOCK, OWNER
from art_oat.training import Method
from art_oat.training.step import Step

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(
    data="digits",
    network="small-4-8",
    nb_epochs=1,
    lambdas=(0.0, 1.0),
    widths=(0.5, 1.0),
    method=Method(attack="pgd-1", eps=0.2),
)
DATA = RECIPE.dataset()
MEASUREMENT = Measurement(attacks=("pgd-1",), nb_robust=10)
MEASURED = {"README.md", "tradeoff.csv", "tradeoff.png", "samples.csv"}
FILES = {"run.json", "config.json", "model.safetensors", "training.csv", *MEASURED}


def train(folder, recipe=RECIPE, **options) -> str:
    """Train without leave to overwrite; return the first word that is said."""
    lines: list[str] = []
    Run(folder, lines.append).train(recipe, recipe.dataset(), **options)
    (line,) = lines
    return " ".join(line.split()[:2])


def measure(folder, data=DATA, **changes) -> tuple[TradeoffCurve, str]:
    """Return the curve, and the first word that is said."""
    lines: list[str] = []
    curve = Run(folder, lines.append).measure(replace(MEASUREMENT, **changes), data, nb_workers=1)
    (line,) = lines
    return curve, line.split()[0]


def names(folder) -> set[str]:
    """What lies in a folder, but for its lock."""
    return {path.name for path in folder.iterdir()} - {LOCK}


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    measure(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_it_writes_what_it_says_and_knows_its_recipe(folder):
    assert names(folder) == FILES
    curve = TradeoffCurve.from_csv(folder / "tradeoff.csv")
    assert curve.eps == RECIPE.method.eps
    measured = [(point.width, point.lam) for point in curve.points]
    assert sorted(measured) == list(itertools.product(RECIPE.widths, RECIPE.lambdas))
    assert load_model(folder).lambdas == RECIPE.lambdas
    assert Run(folder, print).recipe == RECIPE


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_whatever_a_run_writes_for_a_moment_or_for_good_has_the_rights_that_the_umask_gives(
    tmp_path, monkeypatch, umask
):
    rights: dict[str, int] = {}
    replace_file = Path.replace

    def replace(path, target):
        found = replace_file(path, target)
        rights[Path(target).name] = stat.S_IMODE(Path(target).stat().st_mode)
        return found

    monkeypatch.setattr(Path, "replace", replace)
    before = os.umask(umask)
    try:
        train(tmp_path / "run")
        measure(tmp_path / "run")
    finally:
        os.umask(before)
    rights |= {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
    assert FILES | {LOCK, OWNER, ".model.next.json", "training-state.pt", "shard-00000.npz"} <= rights.keys()
    assert set(rights.values()) == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777 & ~umask


@pytest.mark.slow(seconds=1)
def test_run_again_it_reuses_everything_and_says_so(folder):
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    assert train(folder) == "Reusing the"
    curve, said = measure(folder)
    assert said == "Reusing"
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert curve == TradeoffCurve.from_csv(folder / "tradeoff.csv")


@pytest.mark.slow(seconds=1)
def test_a_run_of_before_whose_model_was_described_under_another_name_is_reused_as_it_is(folder):
    (folder / "config.json").replace(folder / "model.json")
    assert train(folder) == "Reusing the"
    assert measure(folder)[1] == "Reusing"
    assert Run(folder, print).recipe == RECIPE
    train(folder, replace(RECIPE, seed=1), overwrites=True)
    assert not (folder / "model.json").exists()


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("changes", "points", "nb_robust", "eps"),
    [
        ({"nb_robust": 20, "lambdas": (0.2,), "eps": 0.1, "widths": (1.0,)}, [(0.2, 1.0)], 20, 0.1),
        ({"lambdas": (0.0,), "widths": (0.5,)}, [(0.0, 0.5)], 10, 0.2),
    ],
)
def test_another_measurement_is_taken_where_it_says(folder, changes, points, nb_robust, eps):
    curve, said = measure(folder, **changes)
    assert said == "Attacking"
    assert [(point.lam, point.width) for point in curve.points] == points
    assert (curve.points[0].nb_robust, curve.eps) == (nb_robust, eps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (0.75,)}, r"width must be one of \(0.5, 1.0\), got 0.75"),
        ({"eps": 0}, "eps must be a number above 0, got 0"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(folder, **changes)


def test_shards_are_attacked_side_by_side(folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(TradeoffCurve, "measure", lambda *args, **options: asked.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Run(folder, print).measure(replace(MEASUREMENT, shard_size=5), DATA)
    assert asked["options"].nb_workers == 2


@pytest.mark.slow(seconds=1)
def test_a_measurement_that_was_cut_goes_on_and_says_so(folder, monkeypatch):
    expected = TradeoffCurve.from_csv(folder / "tradeoff.csv")
    for name in MEASURED:
        (folder / name).unlink()
    attack, judged = Shard.attack, []

    def cut_at_the_second(self, *arguments):
        if len(judged) == 1:
            raise KeyboardInterrupt
        judged.append(arguments[1])
        return attack(self, *arguments)

    monkeypatch.setattr(Shard, "attack", cut_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        measure(folder)
    monkeypatch.setattr(Shard, "attack", lambda self, *arguments: (judged.append(1), attack(self, *arguments))[1])
    curve, said = measure(folder)
    assert said == "Going"
    assert [point.robust for point in curve.points] == [point.robust for point in expected.points]
    assert len(judged) == len(expected.points)
    assert names(folder) == FILES


def test_what_broke_each_image_is_written_down(folder):
    with (folder / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    for point in TradeoffCurve.from_csv(folder / "tradeoff.csv").points:
        own = [row for row in rows if (float(row["lam"]), float(row["width"])) == (point.lam, point.width)]
        labels = [int(DATA.test.y[int(row["sample"])]) for row in own]
        assert sorted(labels) == list(range(10))  # 10 images in the classes' shares
        assert sum(int(row["is_robust"]) for row in own) == point.robust * point.nb_robust
        assert all((row["broken_by"] == "") == (row["is_robust"] == "1") for row in own)


@pytest.mark.parametrize(
    "change", [{"widths": (1.0,)}, {"heads": "per-width"}, {"width_sampling": "all"}, {"seed": 7}, {"eps": 0.1}]
)
def test_weights_of_another_training_are_not_replaced_unasked(folder, change):
    before, other = contents(folder), RECIPE.changed(**change)
    (name,) = change
    with pytest.raises(FileExistsError, match=rf"holds weights of another training: recipe.*{name}.* was .*, is"):
        train(folder, other)
    assert contents(folder) == before
    assert train(folder, other, overwrites=True) == "Training one"


def test_a_recipe_that_cannot_work_leaves_the_weights_of_another(folder):
    before = contents(folder)
    with pytest.raises(ValueError, match="Norm order"):
        train(folder, RECIPE.changed(seed=9, attack="art:Wasserstein", eps=0.3), overwrites=True)  # takes no Linf
    assert contents(folder) == before


@pytest.mark.parametrize(("name", "content"), [("model.safetensors", "other"), ("config.json", ""), ("run.json", "")])
def test_a_file_that_was_changed_is_made_again(folder, name, content):
    (folder / name).write_text(content)
    assert train(folder, overwrites=True) == "Training one"
    assert load_model(folder).lambdas[-1] == 1


def test_a_record_that_was_changed_is_no_record_and_a_refusal_names_it(folder):
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"eps": 0.2', '"eps": 0.3'))
    said = r"run\.json is damaged, or was changed"
    with pytest.raises(FileNotFoundError, match=rf"must hold a run, made by art-oat train --out .*, but .*{said}"):
        _ = Run(folder, print).recipe
    with pytest.raises(FileExistsError, match=f"holds weights of another training: .*{said}"):
        train(folder)
    assert train(folder, overwrites=True) == "Training one"


@pytest.mark.slow(seconds=1)
def test_other_data_are_noticed(folder):
    changed = DATA._replace(test=Split(1 - DATA.test.x, DATA.test.y))
    assert measure(folder, changed)[1] == "Attacking"
    with pytest.raises(FileExistsError, match=r"data\.train was \w{8}, is \w{8}\."):
        Run(folder, print).train(RECIPE, DATA._replace(train=Split(1 - DATA.train.x, DATA.train.y)))


def test_what_is_no_folder_of_a_run_is_refused(folder, tmp_path):
    kept = json.loads((folder / "run.json").read_text())
    kept["recipe"]["settings"] = {"network_of_tomorrow": 1}  # of another version
    (folder / "run.json").write_text(json.dumps(kept))
    for place in (folder, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="must hold a run, made by art-oat train --out"):
            _ = Run(place, print).recipe
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="must lie in a folder"):
        Run(tmp_path / "file", print)


LONGER = RECIPE.changed(nb_epochs=3, nb_train=200, ema=0.9, widths=(1.0,))


@contextmanager
def cut_in(epoch: int):
    """The second step of this epoch fails within the block."""

    def step(self, x, y, **options):
        if self.epoch == epoch and self.metrics.nb_samples:
            raise KeyboardInterrupt
        return unchanged(self, x, y, **options)

    unchanged = Step.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", step)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.slow(seconds=1)
def test_a_training_that_is_cut_short_can_be_measured_and_then_gone_on_with(tmp_path):
    with cut_in(2):
        train(tmp_path, LONGER)
    assert Run(tmp_path, print).recipe == LONGER
    assert len(measure(tmp_path, LONGER.dataset())[0].points) == len(LONGER.lambdas)
    assert train(tmp_path, LONGER) == "Going on"
    assert not (tmp_path / "tradeoff.csv").exists()  # it was of weights that are no longer there


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("options", [{}, {"keeps_best": False}])
def test_the_same_training_again_after_cuts_has_the_weights_of_the_uncut_one(tmp_path, options):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, LONGER, **options)
    for epoch in (1, 2, 2, 3):
        with cut_in(epoch):
            train(cut, LONGER, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_oat.experiment.run.Ledger.forget", lambda *_: 1 / 0)  # trained to the end, and not noted
        with pytest.raises(ZeroDivisionError):
            train(cut, LONGER, **options)
    assert train(cut, LONGER, **options) == "Going on"
    for name in ("model.safetensors", "config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    rows = [(folder / "training.csv").read_text().splitlines() for folder in (cut, whole)]
    assert len(rows[0]) == len(rows[1]) == 1 + LONGER.nb_epochs
    assert names(cut) == FILES - MEASURED
    assert train(cut, LONGER, **options) == "Reusing the"


def test_a_training_cut_within_an_epoch_goes_on_there_also_with_other_checkpoints_and_a_way_out_of_divergence(tmp_path):
    whole, cut, numbers = tmp_path / "whole", tmp_path / "cut", []
    train(whole, LONGER)
    with cut_in(2):
        train(cut, LONGER, checkpoint_steps=1)
    unchanged = Step.__call__

    def step(self, x, y, **options):
        numbers.append(self.epoch)
        return unchanged(self, x, y, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", step)
        assert train(cut, LONGER.changed(on_nan="restore"), checkpoint_minutes=60.0) == "Going on"
    assert (numbers.count(2), numbers.count(3)) == (1, 2)  # of two steps each
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("nb_epochs", [3, 20])  # the first validation comes after 1 and after 4 epochs
def test_a_training_that_was_cut_short_is_replaced_by_another_on_demand_alone(tmp_path, nb_epochs):
    recipe = LONGER.changed(nb_epochs=nb_epochs)
    with cut_in(3):
        train(tmp_path, recipe)
    before = contents(tmp_path)
    what = "weights of another training" if nb_epochs == 3 else "another training, cut short"
    for other in (recipe.changed(seed=1), recipe.changed(precision="bf16")):
        with pytest.raises(FileExistsError, match=f"{what}: recipe.*, is .*. Name another --out, or add --overwrite"):
            train(tmp_path, other)
    assert contents(tmp_path) == before
    assert train(tmp_path, LONGER, overwrites=True) == "Training one"
    assert names(tmp_path) == FILES - MEASURED


def test_a_training_that_was_cut_short_before_its_first_epoch_ended_starts_anew_and_holds_nobody_up(tmp_path):
    other = LONGER.changed(seed=1)
    for recipe in (LONGER, other):
        with cut_in(1):
            train(tmp_path, recipe)
    assert train(tmp_path, other) == "Training one"


def in_another_process(folder, call: str, *, during: str) -> str:
    """Return what another process says to a call while this one is within a function."""
    script = f"from tests.experiment.test_run import *; from pathlib import Path; print({call})"
    unchanged, said = getattr(Run, during), []

    def call_both(self, *arguments, **options):
        command = [sys.executable, "-c", script, str(folder)]
        said.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stderr)
        return unchanged(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, during, call_both)
        {"_train": train, "_measure": measure}[during](folder)
    return said[0].splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("during", ["_train", "_measure"])
@pytest.mark.parametrize("call", ["train(Path(sys.argv[1]), RECIPE, overwrites=True)", "measure(Path(sys.argv[1]))"])
def test_of_two_processes_in_one_folder_the_second_is_refused_and_the_first_undisturbed(folder, during, call):
    before = contents(folder)
    assert "RuntimeError: one process at a time may work in" in in_another_process(folder, call, during=during)
    after = contents(folder)
    assert all(after[name] == before[name] for name in ("model.safetensors", "config.json", "run.json", "tradeoff.csv"))


def test_the_record_never_vouches_for_weights_that_another_has_written(tmp_path, folder):
    def fit_and_be_overwritten(*arguments, **options):
        classifier = unchanged(*arguments, **options)
        for name in ("model.safetensors", "config.json"):
            shutil.copy(folder / name, tmp_path / "new" / name)
        return classifier

    unchanged, other = run.fit, RECIPE.changed(seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", fit_and_be_overwritten)
        with pytest.raises(RuntimeError, match="must hold what was trained, but another process has written it"):
            train(tmp_path / "new", other)
    assert not Ledger(tmp_path / "new" / "run.json").settings("training")
    assert train(tmp_path / "new", other) == "Going on"


@pytest.mark.slow(seconds=1)
def test_what_another_process_wrote_between_two_steps_of_one_is_not_forgotten(folder, tmp_path):
    first = Run(tmp_path / "it", [].append)
    shutil.copytree(folder, tmp_path / "it")
    first.measure(replace(MEASUREMENT, seed=1), DATA, nb_workers=1)
    assert train(tmp_path / "it") == "Reusing the"
