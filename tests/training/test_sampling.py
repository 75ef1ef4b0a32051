import math
from collections import Counter

import pytest
import torch

from art_oat import StratifiedSampling
from tests.networks import LAMBDAS


def counts(sampling: StratifiedSampling, batch_size: int, lambdas=LAMBDAS, seed: int = 0) -> Counter[float]:
    drawn = sampling.draw(lambdas, batch_size, torch.Generator().manual_seed(seed))
    assert drawn.shape == (batch_size,)
    return Counter(round(value, 6) for value in drawn.tolist())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 7, 64, 127, 128])
@pytest.mark.parametrize("lambdas", [(0.0, 1.0), (0.0, 0.5, 1.0), LAMBDAS])
def test_zero_gets_the_published_number_of_samples(batch_size, lambdas):
    assert counts(StratifiedSampling(), batch_size, lambdas)[0] == math.ceil(batch_size / len(lambdas))


def test_without_zero_among_the_lams_none_is_drawn():
    assert counts(StratifiedSampling(), 12, (0.5, 1.0)) == {0.5: 6, 1.0: 6}


def test_zero_alone_takes_the_whole_batch():
    assert counts(StratifiedSampling(), 5, (0.0,)) == {0: 5}


@pytest.mark.parametrize("seed", range(20))
def test_every_lam_gets_its_share_rounded_down_or_up(seed):
    weights = {1.0: 4 * 0.45 / 0.55}
    drawn = counts(StratifiedSampling(weights), 128, seed=seed)
    nb_attacked = 128 - math.ceil(128 / 6)
    shares = {lam: 0.45 if lam == 1 else 0.55 / 4 for lam in LAMBDAS[1:]}
    for lam, share in shares.items():
        assert abs(drawn[lam] - share * nb_attacked) < 1


def test_the_expected_count_is_the_exact_share():
    total = sum((counts(StratifiedSampling({1.0: 2}), 8, seed=seed) for seed in range(2000)), Counter())
    # 6 attacked samples of 8; lam 1 has weight 2 of 6: a share of 2.0, the others of 1.0; 4 standard errors
    for lam in LAMBDAS[1:]:
        assert total[lam] / 2000 == pytest.approx(2.0 if lam == 1 else 1.0, abs=4 * math.sqrt(0.25 / 2000))


def test_lams_come_in_ascending_order():
    drawn = StratifiedSampling().draw(LAMBDAS, 50)
    assert torch.equal(drawn, drawn.sort().values)


@pytest.mark.parametrize("weights", [{1.0: 0}, {1.0: -1}, {1.0: math.nan}, {0.0: 2}, {1.5: 2}])
def test_faulty_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must map lams in"):
        StratifiedSampling(weights)


def test_weights_for_a_lam_that_is_not_trained_are_refused():
    with pytest.raises(ValueError, match=r"weights must be for lams that are trained.*\[0.7\]"):
        StratifiedSampling({0.7: 2}).check(LAMBDAS)
