import pytest
import typer

from art_oat.experiment.numbers import joined, numbers, radius, whole_numbers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--widths 0.5 0.75 1.0", "--widths=0.5,0.75,1.0"),
        ("--widths 0.5,0.75,1", "--widths=0.5,0.75,1"),
        ("--widths 0.5, .75, 1", "--widths=0.5,.75,1"),
        ("--widths=0.5 1 --seed 3", "--widths=0.5,1 --seed 3"),
        ("--widths 0.5 --widths 1", "--widths=0.5 --widths=1"),
        ("--lambdas 0 1e-2 --widths 1 run", "--lambdas=0,1e-2 --widths=1 run"),
        ("run --widths 0.5 1", "run --widths=0.5,1"),
        ("--nb-epochs 3 4 --widths 1", "--nb-epochs 3 4 --widths=1"),
        ("--widths 0.5 -1 1", "--widths=0.5 -1 1"),
        ("--widths 0.5 nan", "--widths=0.5 nan"),
        ("--widths 0.5 inf", "--widths=0.5 inf"),
        ("--widths run", "--widths run"),
        ("--widths --seed 3", "--widths --seed 3"),
        ("--widths 0.5 -- 3", "--widths=0.5 -- 3"),
    ],
)
def test_numbers_that_follow_an_option_are_its_values_and_nothing_else_is(arguments, expected):
    assert joined(arguments.split()) == expected.split()


def test_a_command_may_have_another_option_of_several_numbers():
    assert joined(["--seed", "0", "1", "run"], ("--seed",)) == ["--seed=0,1", "run"]
    assert whole_numbers("seed", ["0,1"]) == (0, 1)


@pytest.mark.parametrize(
    ("values", "expected"), [(None, None), ([], None), (["0.5,1"], (0.5, 1)), (["0", "1"], (0, 1))]
)
def test_numbers_come_in_one_value_or_in_several(values, expected):
    assert numbers("widths", values) == expected


def test_what_is_no_number_is_refused_by_name():
    with pytest.raises(ValueError, match=r"lambdas must be numbers, such as --lambdas 0.5 1, got '0;1'"):
        numbers("lambdas", ["0;1"])
    with pytest.raises(typer.BadParameter, match="--eps-step must be a number or a fraction"):
        radius("eps_step")("2/0")
    assert radius("eps")("8/255") == radius("eps")(8 / 255) == 8 / 255
