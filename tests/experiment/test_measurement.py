import numpy as np
import pytest

from art_oat.evaluation import ThreatModel
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.training import Method


def test_the_ball_is_that_of_the_training_unless_it_is_said():
    recipe = Recipe(data="digits", method=Method(eps=0.6, norm="L2", allow_large_eps=True))
    assert Measurement().threat(recipe) == ThreatModel(0.6, "L2", allow_large_eps=True)
    assert Measurement(eps=np.float32(0.5), norm="Linf").threat(recipe) == ThreatModel(0.5, "Linf")


def test_an_attack_that_there_is_not_in_this_ball_is_refused():
    with pytest.raises(ValueError, match=r"attack must be one of .*got 'pgd'"):
        Measurement(attacks=("pgd-3", "pgd")).check(Recipe(data="digits"))
