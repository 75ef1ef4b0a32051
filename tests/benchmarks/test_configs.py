from dataclasses import replace

import numpy as np
import pytest

from art_oat import StratifiedSampling
from benchmarks.configs import CONFIGS, DIGITS


def test_folds_test_every_image_once_per_seed_under_the_same_number():
    images = []
    for seed in (0, 1):
        parts = list(replace(DIGITS, seeds=(seed,)).parts())
        index = np.concatenate([part.index for part in parts])
        x = np.concatenate([part.data.test.x for part in parts])
        assert sorted(index) == list(range(1797))
        images.append(x[np.argsort(index)])
        for part in parts:
            assert len(part.data.train.x) + len(part.data.test.x) == 1797
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=map("-".join, CONFIGS))
def test_a_dedicated_network_differs_in_its_lam_and_its_epochs_alone(config):
    recipe, dedicated = config.recipe, config.dedicated(0.3)
    assert dedicated.lambdas == (0.3,)
    assert dedicated.film is None
    same = replace(
        dedicated, lambdas=recipe.lambdas, film=recipe.film, nb_epochs=recipe.nb_epochs, method=recipe.method
    )
    assert dedicated.method == replace(recipe.method, sampling=StratifiedSampling())
    assert same == recipe
