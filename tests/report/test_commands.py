import shlex
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from art_oat import Method, StratifiedSampling
from art_oat.cli.app import Command
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.options import recipe_from, with_options
from art_oat.experiment.recipe import Recipe
from art_oat.report.commands import commands, measurement_of
from tests.report.subjects import RECIPE


def test_commands_name_the_folder_as_a_shell_takes_it_and_what_was_said():
    train, evaluate, report = commands(Path("my runs/a"), RECIPE, Measurement(nb_robust=40))
    assert shlex.split(train)[:4] == ["art-oat", "train", "--data", "digits"]
    assert shlex.split(train)[-2:] == ["--out", "my runs/a"]
    assert shlex.split(evaluate) == ["art-oat", "evaluate", "my runs/a", "--nb-robust", "40"]
    assert shlex.split(report) == ["art-oat", "report", "my runs/a"]


def test_a_network_that_must_be_trusted_is_said_to_be_and_a_run_without_a_measurement_has_no_command_for_one():
    own = RECIPE.changed(network="tests.models.test_external:tiny")
    train, report = commands(Path("run"), own, None)
    assert "--trust-network" not in train
    assert report.endswith("--trust-network")


def test_a_measurement_is_read_from_a_ledger_and_none_from_that_of_another_version():
    assert measurement_of({"attacks": ["pgd-2"], "machine": "this"}) == Measurement(attacks=("pgd-2",))
    assert measurement_of({}) is None


WRITTEN = {
    "dial": Recipe(data="digits", method=Method.dial()),
    "published": Recipe(data="digits"),
    "robust": Recipe(data="digits", method=Method.robust()),
    "fast": Recipe(data="digits", method=Method.fast(eps=8 / 255)),
    "other": Recipe(
        data="digits",
        lambdas=(0.0, 1 / 3, 1.0),
        widths=(0.5, 1.0),
        heads="per-width",
        channels_last=True,
        nb_train=100,
        learning_rate=0.2,
        method=Method(
            distills=True, width_sampling="all", sampling=StratifiedSampling({1.0: 4.0}), eps_step=0.1234567, ema=0.9
        ),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_command_of_a_training_makes_its_recipe_again(name):
    found = []

    def make(out: Annotated[str, typer.Option()], recipe: str = "dial", **values: object) -> None:
        found.append(recipe_from(recipe, values))

    app = typer.Typer()
    app.command(cls=Command)(with_options("train", make))
    command = commands(Path("here"), WRITTEN[name], None)[0]
    result = CliRunner().invoke(app, shlex.split(command)[2:])
    assert result.exit_code == 0, (command, result.output)
    assert found == [WRITTEN[name]]
