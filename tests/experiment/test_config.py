import json
import re

import pytest

from art_oat.experiment.config import measurement_in, recipe_in
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.training import Method


def written(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(data="digits"),
        Recipe(data="digits", film=None, lambdas=(0.5,), exempt=(), method=Method.dial(eps=1 / 3, loss="trades")),
    ],
)
def test_a_recipe_alone_or_in_the_file_of_a_run_is_read_as_it_was_written(tmp_path, recipe):
    values = recipe.as_values()
    assert recipe_in(written(tmp_path, values)) == recipe
    assert recipe_in(written(tmp_path, {"recipe": {"settings": values, "sha256": ""}})) == recipe


def test_a_measurement_is_read_and_what_is_not_said_is_the_default(tmp_path):
    settings = {"attacks": ["pgd-1"], "widths": [0.5, 1], "model": "", "data": "", "machine": ""}
    expected = Measurement(attacks=("pgd-1",), widths=(0.5, 1))
    assert measurement_in(written(tmp_path, {"measurement": {"settings": settings}})) == expected
    assert recipe_in(written(tmp_path, {"data": "digits", "nb_epochs": 2})) == Recipe(data="digits", nb_epochs=2)


@pytest.mark.parametrize(
    ("read", "values", "expected"),
    [
        (recipe_in, {"data": "digits", "epochs": 3, "method": {"epz": 1}}, ["epochs is no", "method.epz is no"]),
        (recipe_in, {"nb_epochs": "3"}, ["nb_epochs must be a int, got '3'", "data must be given"]),
        (recipe_in, {"data": "digits", "nb_epochs": 0, "network": "vgg"}, ["nb_epochs must", "network must"]),
        (recipe_in, {"data": "digits", "method": 3}, ["method must hold settings"]),
        (recipe_in, {"data": "digits", "method": {"sampling": [1]}}, ["config.json"]),
        (recipe_in, [], ["must hold a recipe"]),
        (measurement_in, {"recipe": {}}, ["must hold a measurement"]),
        (measurement_in, {"attacks": "pgd-1", "eps": True}, ["attacks must be", "eps must be"]),
    ],
)
def test_every_wrong_name_and_value_is_refused_by_name(tmp_path, read, values, expected):
    with pytest.raises(ValueError, match=re.escape(expected[0])) as refused:
        read(written(tmp_path, values))
    for part in expected:
        assert part in str(refused.value)
