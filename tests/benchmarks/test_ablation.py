from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from art_oat import fold
from benchmarks import ablation
from benchmarks.ablation import CONFIGS, candidates
from benchmarks.arms import recipe_of, train

ROOT = Path(__file__).parents[2]
DIGITS = CONFIGS["digits"]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_variant_changes_what_its_name_says_and_nothing_else(config):
    base = recipe_of("oat", config, 1)

    def parts(recipe):
        return {**recipe.as_values(), **recipe.as_values()["method"], "method": None}

    changed = {
        name: {key for key, value in parts(recipe_of(name, config, 1)).items() if value != parts(base)[key]}
        for name in config.variants
    }
    one_step = {"attack", "fallback"} | ({"eps_step"} if base.method.eps_step is not None else set())
    tuned = {"pretrained", "schedule", "nb_epochs", "batch_size"}
    assert changed.pop("fine-tuned") - {"learning_rate"} == tuned
    changed.pop("n-fgsm-1, ema", None)  # for digits alone
    assert changed == {
        "oat": set(),
        "oat, awp": {"weight_perturbation"},
        "oat, ema": {"ema"},
        "oat, trades": {"loss"},
        "oat, mart": {"loss"},
        "n-fgsm": one_step,
        "oat, awp, ema": {"weight_perturbation", "ema"},
        "n-fgsm, ema": one_step | {"ema"},
    }
    assert recipe_of("fine-tuned", config, 1).nb_epochs * 8 == base.nb_epochs


def images(part, name: str) -> set[bytes]:
    return {image.tobytes() for image in getattr(part.data, name).x}


def test_held_out_images_are_neither_trained_on_nor_tested_on():
    part = next(DIGITS.parts())
    train_, held_out, test = (images(part, name) for name in ("train", "validation", "test"))
    assert len(part.data.validation.x) == DIGITS.nb_held_out
    assert not held_out & train_
    assert not held_out & test


def test_choices_are_made_without_a_look_at_test_images():
    judged, tested = next(candidates(DIGITS).parts()), next(replace(DIGITS, seeds=(ablation.SEED_OF_CHOICE,)).parts())
    assert not images(judged, "test") & images(tested, "test")
    assert images(judged, "test") == images(judged, "validation")
    assert not images(judged, "test") & images(judged, "train")
    assert ablation.SEED_OF_CHOICE not in DIGITS.seeds


def test_fine_tuning_starts_from_the_answers_of_the_natural_network(tmp_path):
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "nb_epochs": 1, "batch_size": 128}
    config = replace(DIGITS.shortened(), variants={"fine-tuned": {**DIGITS.variants["fine-tuned"], **still}})
    part = next(config.parts())
    tuned = train("fine-tuned", config, part, tmp_path / "fine-tuned")
    natural = fold(train("lam-0", config, part, tmp_path / "lam-0").model, 0.0)
    start, end = (
        [part.weight for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
        for network in (natural, tuned.model)
    )
    assert len(start) > 1
    torch.testing.assert_close(end, start, rtol=1e-5, atol=1e-6)  # steps of 1e-12


def test_a_difference_is_in_points_and_a_ratio_of_areas_counts_from_guessing():
    ours = np.array([[0.9, 0.9, 0.9], [0.1, 0.4, 0.7]])
    theirs = np.array([[0.8, 0.8, 0.8], [0.1, 0.1, 0.1]])
    assert ablation.FIGURES["clean difference"](ours, theirs) == pytest.approx(10)
    assert ablation.FIGURES["robust difference"](ours, theirs) == pytest.approx(30)
    assert ablation.FIGURES["hypervolume ratio"](ours, theirs) == pytest.approx(0.8 * 0.7 / (0.7 * 0.1))
