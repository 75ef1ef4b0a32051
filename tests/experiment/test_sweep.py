import numpy as np
import pytest

from art_oat.evaluation import TradeoffCurve
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.sweep import Sweep, refuse_others
from art_oat.frontier import MeasuredPoint

RECIPE = Recipe(data="digits", network="small-4")
ROBUST = {0: 0.3, 1: 0.5, 4: 0.4}


def curve_of(folder, recipe):
    points = [MeasuredPoint(lam, 1.0, 0.9, ROBUST[recipe.seed], 100, 50, {"pgd-7": 0.5}) for lam in (1.0, 0.0)]
    return TradeoffCurve(tuple(points), 0.1)


def test_a_row_is_the_mean_and_the_standard_deviation_of_a_sample_over_seeds(tmp_path):
    found = Sweep.of(RECIPE, (0, 1, 4), tmp_path, curve_of)
    assert [row["lam"] for row in found.rows()] == [0.0, 1.0]
    row = found.rows()[0]
    assert (row["nb_seeds"], row["clean"], row["clean_std"]) == (3, pytest.approx(0.9), pytest.approx(0))
    assert (row["robust"], row["robust_std"]) == (pytest.approx(0.4), pytest.approx(np.std([0.3, 0.5, 0.4], ddof=1)))
    assert "standard deviation (n - 1) over seeds 0, 1, 4" in str(found)
    assert [path.name for path in found.write(tmp_path, subject="x")] == ["sweep.csv", "sweep.md", "sweep.png"]


def test_every_seed_has_a_folder_and_a_recipe_of_its_own(tmp_path):
    asked = []
    Sweep.of(RECIPE, (0, 1), tmp_path, lambda *given: asked.append(given) or curve_of(*given))
    assert asked == [(tmp_path / "seed-0", RECIPE), (tmp_path / "seed-1", RECIPE.changed(seed=1))]


@pytest.mark.parametrize("seeds", [(), (0,), (1, 1), (-1, 0)])
def test_a_spread_needs_two_seeds(tmp_path, seeds):
    with pytest.raises(ValueError, match="seed must"):
        Sweep.of(RECIPE, seeds, tmp_path, curve_of)


def test_another_training_in_a_folder_is_seen_before_the_first_is_trained(tmp_path):
    (tmp_path / "seed-1").mkdir()
    Ledger(tmp_path / "seed-1" / "run.json").keep("recipe", RECIPE.changed(seed=1, nb_epochs=7).as_values())
    with pytest.raises(FileExistsError, match=r"seed-1 holds another training: nb_epochs was 7, is 30"):
        refuse_others(RECIPE, (0, 1), tmp_path)
    refuse_others(RECIPE.changed(nb_epochs=7), (0, 1), tmp_path)
