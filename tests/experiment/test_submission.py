import json
from dataclasses import replace

import pytest

from art_oat.data import Dataset, Split
from art_oat.evaluation import ThreatModel
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.submission import Submission

CIFAR = Recipe(data="cifar10", lambdas=(0.0, 0.5, 1.0), widths=(0.5, 1.0))
DIGITS = replace(CIFAR, data="digits")
BALL = ThreatModel(8 / 255)
KINDS = {
    **dict.fromkeys(("link", "name", "authors", "dataset", "venue", "architecture", "eps", "footnote"), str),
    **dict.fromkeys(("clean_acc", "reported", "autoattack_acc"), str),
    **dict.fromkeys(("additional_data", "unreliable"), bool),
    "number_forward_passes": int,
}
"""The fields of model_info/cifar10/Linf/Wang2023Better_WRN-28-10.json and their kinds, as others there have them."""


def entry(recipe: Recipe = CIFAR, threat: ThreatModel = BALL, accuracies=(0.92439, 0.6731), **fields) -> dict:
    return Submission(**fields).entry(recipe, threat, accuracies, is_doubtful=False)


def test_the_fields_are_those_of_the_entries_there_and_of_their_kinds():
    found = json.loads(json.dumps(entry()))
    assert {name: type(value) for name, value in found.items()} == KINDS


def test_figures_are_written_as_there():
    found = entry()
    assert (found["dataset"], found["eps"], found["number_forward_passes"]) == ("cifar10", "8/255", 1)
    assert (found["clean_acc"], found["autoattack_acc"], found["reported"]) == ("92.44", "67.31", "67.31")
    assert entry(threat=ThreatModel(0.5, "L2"))["eps"] == "0.5"


def test_what_is_said_of_the_paper_is_passed_on_and_the_rest_is_said_of_the_run():
    said = {"link": "https://example.org", "authors": "Ann Author", "venue": "ICML 2023", "architecture": "ResNet-18"}
    found = entry(**said, title="A paper", additional_data=True)
    assert found.items() >= {**said, "name": "A paper", "additional_data": True}.items()
    assert entry()["architecture"] == "resnet18"
    assert entry(width=0.5)["architecture"] == "resnet18, 50% of the channels"
    assert entry()["additional_data"] is False


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lam": 1}, "lam 1 (trained), width 1"),
        ({"lam": 0.7, "width": 0.5}, "lam 0.7 (between trained ones), width 0.5"),
    ],
)
def test_the_footnote_names_the_dial_and_the_point(fields, said):
    footnote = entry(**fields)["footnote"]
    assert "network with a dial" in footnote
    assert said in footnote


def test_a_doubt_of_autoattack_marks_the_entry_as_unreliable():
    assert Submission().entry(CIFAR, BALL, (1, 1), is_doubtful=True)["unreliable"] is True


def data(nb_test: int) -> Dataset:
    part = Split([None] * nb_test, None)
    return Dataset(part, part, part)


@pytest.mark.parametrize(
    ("recipe", "threat", "fields", "said"),
    [
        (CIFAR, BALL, {}, []),
        (CIFAR, ThreatModel(0.5, "L2"), {"nb_images": 10_000}, []),
        (CIFAR, BALL, {"nb_images": 200}, ["it wants all 10000 test images attacked, not 200"]),
        (CIFAR, ThreatModel(4 / 255), {}, ["its radius there is 8/255, not 4/255"]),
        (CIFAR, ThreatModel(1, "L1"), {}, ["not for cifar10 in L1"]),
        (DIGITS, BALL, {"nb_images": 5}, ["not for digits in Linf", "it wants all"]),
    ],
)
def test_what_robustbench_would_not_take_is_said(recipe, threat, fields, said):
    found = Submission(**fields).reservations(recipe, threat, data(10_000))
    assert len(found) == len(said)
    assert all(part in reservation for part, reservation in zip(said, found, strict=True))


def test_the_ball_is_that_of_the_training_unless_it_is_said():
    recipe = replace(CIFAR, method=replace(CIFAR.method, eps=0.02))
    assert Submission().checked_threat(recipe, 10).eps == 0.02
    assert Submission(eps=0.5, norm="L2").checked_threat(recipe, 10) == ThreatModel(0.5, "L2")


def test_what_does_not_fit_the_run_is_refused_all_at_once():
    recipe = replace(CIFAR, pretrained="weights.pt")
    with pytest.raises(ValueError, match=r"nb_images must be at most 10, .* got 20.*additional_data must be said"):
        Submission(nb_images=20).checked_threat(recipe, 10)
    assert Submission(additional_data=False).checked_threat(recipe, 10) == BALL
    with pytest.raises(ValueError, match="eps must be"):
        Submission(eps=-1).checked_threat(CIFAR, 10)


@pytest.mark.parametrize("name", ["", "a/b", "../it", "."])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(ValueError, match="name must be one of a file"):
        Submission(name=name)
