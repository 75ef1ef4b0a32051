import inspect
from dataclasses import dataclass, fields
from typing import get_args

import pytest

from art_oat import StratifiedSampling
from art_oat.experiment import options
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.options import arguments, read, recipe_from, with_options
from art_oat.experiment.recipe import Recipe, described
from art_oat.training import Method


def command(out: str, **given: object) -> None:
    """Do something."""


def options_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(with_options(name, command)).parameters)


def given(name: str = "train", **values: object) -> dict[str, object]:
    """What typer hands to a command: every option, those not given as their defaults."""
    return {it: option.default for it, option in options_of(name).items()} | values


def recipe_of(method: str = "dial", **values: object) -> Recipe:
    return recipe_from(method, given(data="digits", **values))


def test_a_new_field_is_a_new_option(monkeypatch):
    @dataclass(frozen=True)
    class Longer(Measurement):
        nb_rounds: int = described("How often it is measured.", default=3, min=1)

    monkeypatch.setitem(options.FILLED, "evaluate", (Longer,))
    monkeypatch.setitem(options._PANELS, Longer, "Measurement")
    option = options_of("evaluate")["nb_rounds"]
    kind, shown = get_args(option.annotation)
    assert (kind, option.default) == (int, 3)
    assert (shown.help, shown.min) == ("How often it is measured.", 1)
    assert read(Longer, given("evaluate", nb_rounds=5))["nb_rounds"] == 5


def test_every_plain_field_of_a_recipe_and_its_method_is_an_option():
    unnamed = {"film", "exempt", "method"}
    names = {part.name for owner in (Recipe, Method) for part in fields(owner)} - unnamed
    renamed = {"weight_perturbation": "awp", "sampling": "weight_of_one"}
    assert set(options_of("train")) == {"out", *(renamed.get(name, name) for name in names)}


def test_what_is_not_given_is_the_default_of_its_field():
    assert recipe_of("published") == Recipe(data="digits")
    assert recipe_of("dial") == Recipe(data="digits", method=Method.dial())
    assert Measurement(**read(Measurement, given("evaluate"))) == Measurement()


@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        ("fast", {"fallback": ""}, Method.fast(fallback=None)),
        ("fast", {"fallback": "pgd-1", "loss": "trades"}, Method.fast(fallback="pgd-1", loss="trades")),
        ("fast", {"attack": "pgd-2"}, Method(attack="pgd-2", loss="alp", ema=0.999)),
        ("robust", {"awp": 0.0, "ema": 0.0}, Method.published(loss="alp")),
        ("robust", {"loss": "trades"}, Method.robust(weight_perturbation=0.005, loss="trades")),
        ("dial", {"weight_of_one": 2.0}, Method.dial(sampling=StratifiedSampling({1.0: 2.0}))),
        ("dial", {"clean_share": 0.0, "eps": 0.2, "norm": "L2"}, Method.dial(clean_share=0.0, eps=0.2, norm="L2")),
        ("dial", {"pretrained": "weights.pt"}, Method.dial(clean_share=0.0)),
        ("dial", {"pretrained": "weights.pt", "clean_share": 0.25}, Method.dial(clean_share=0.25)),
        ("dial", {"lambdas": ["0,0.5"]}, Method.dial()),
        ("dial", {"on_nan": "restore"}, Method.dial(on_nan="restore")),
        (
            "dial",
            {"precision": "bf16", "attack_precision": "float32"},
            Method.dial(precision="bf16", attack_precision="float32"),
        ),
        (
            "dial",
            {"widths": ["0.5", "1"], "width_sampling": "all", "distills": True},
            Method.dial(width_sampling="all", distills=True),
        ),
    ],
)
def test_options_that_are_given_come_before_those_of_the_named_method(method, values, expected):
    assert recipe_of(method, **values).method == expected


def test_help_says_what_holds_where_an_option_is_not_given():
    said = {name: get_args(option.annotation)[1] for name, option in options_of("train").items() if name != "out"}
    assert said["awp"].help.endswith(", 0 for none; the recipe's if not given.")
    assert said["fallback"].help.endswith(", '' for none; the recipe's if not given.")
    assert said["attack"].help.endswith("; the recipe's if not given.")
    assert said["lambdas"].help.endswith("; 0 0.1 0.2 0.3 0.4 1 if not given.")
    assert said["eps"].show_default == "8/255"


def test_the_options_of_a_measurement_are_what_differs_from_the_usual_one():
    assert arguments(Measurement(), Measurement()) == []
    words = arguments(Measurement(attacks=("screen", "pgd-7"), eps=4 / 255, lambdas=(0.0, 0.5)), Measurement())
    assert words == ["--attack", "screen", "--attack", "pgd-7", "--eps", "4/255", "--lambdas", "0,0.5"]


def test_the_options_of_a_recipe_are_what_differs_its_method_last():
    usual = Recipe(data="digits", method=Method.dial())
    changed = usual.changed(widths=(0.5, 1.0), channels_last=True, lambdas=(0.0, 1 / 3, 1.0), eps=8 / 255, eps_step=0.1)
    words = ["--lambdas", f"0,{1 / 3!r},1", "--widths", "0.5,1", "--channels-last", "--eps-step", "0.1"]
    assert arguments(changed, usual) == words
    assert arguments(usual.changed(ema=None), usual.changed(ema=0.9)) == ["--ema", "0"]
