import numpy as np
import pytest

from art_oat.cli.terminal import as_on_command_line, options_named
from tests.cli.subjects import call


def test_what_steers_a_terminal_is_not_sent_to_it_from_a_file(tmp_path):
    (tmp_path / "run.json").write_text('"\\u001b[2J"')
    np.savez(tmp_path / "images.npz", **{"\x1b[2J": np.zeros(3)})
    images = str(tmp_path / "images.npz")
    output = (
        call("evaluate", str(tmp_path)).output + call("train", "--data", images, "--out", str(tmp_path / "run")).output
    )
    assert r"\x1b[2J" in output
    assert "\x1b[2J" not in output


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("nb_epochs must be 1. eps must be 2.", "--nb-epochs must be 1. --eps must be 2."),
        ("the network must have eps among them", "the network must have eps among them"),
        ("pass nb_epochs=3, on_nan='restore'", "pass --nb-epochs 3, --on-nan restore"),
        ("network and eps are for digits", "--network and --eps are for digits"),
        ("weight_perturbation must be above 0", "--awp must be above 0"),
        ("device_type must be cpu", "device_type must be cpu"),
        ("recipe.nb_epochs was 1; my_nb_epochs, nb_epochs.csv", "recipe.nb_epochs was 1; my_nb_epochs, nb_epochs.csv"),
    ],
)
def test_errors_name_the_options_of_the_command_that_runs_and_leave_other_words_alone(message, expected):
    with options_named(
        {name: f"--{name.replace('_', '-')}" for name in ("nb_epochs", "eps", "on_nan", "network", "awp")}
    ):
        assert as_on_command_line(message) == expected
    assert as_on_command_line(message) == message
