import math
from collections import Counter

import pytest
import torch

from art_oat import StratifiedSampling
from art_oat.training.sampling import draw_widths, width_sampling_faults
from tests.networks import LAMBDAS


def counts(sampling: StratifiedSampling, batch_size: int, lambdas=LAMBDAS, seed: int = 0) -> Counter[float]:
    drawn = sampling.draw(lambdas, batch_size, torch.Generator().manual_seed(seed))
    assert drawn.shape == (batch_size,)
    return Counter(round(value, 6) for value in drawn.tolist())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 7, 64, 127, 128])
@pytest.mark.parametrize("lambdas", [(0.0, 1.0), (0.0, 0.5, 1.0), LAMBDAS])
def test_zero_gets_the_published_number_of_samples(batch_size, lambdas):
    assert counts(StratifiedSampling(), batch_size, lambdas)[0] == math.ceil(batch_size / len(lambdas))


@pytest.mark.parametrize(
    ("lambdas", "batch_size", "expected"), [((0.5, 1.0), 12, {0.5: 6, 1.0: 6}), ((0.0,), 5, {0: 5})]
)
def test_without_zero_among_the_lams_none_is_drawn_and_alone_it_takes_the_whole_batch(lambdas, batch_size, expected):
    assert counts(StratifiedSampling(), batch_size, lambdas) == expected


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


def widths_drawn(kind: str, widths: tuple[float, ...], nb_draws: int = 1) -> list[tuple[float, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [draw_widths(kind, widths, generator) for _ in range(nb_draws)]


FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("kind", "nb_widths"),
    [*(("all", n) for n in range(1, 6)), *(("sandwich", n) for n in (1, 2, 3)), ("random", 1)],
)
def test_where_nothing_is_to_be_chosen_every_width_comes_largest_first_and_nothing_is_drawn(kind, nb_widths):
    widths, generator = FIVE[-nb_widths:], torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_widths(kind, widths, generator) == widths[::-1]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("nb_widths", [4, 5])
def test_a_sandwich_is_the_largest_one_in_between_and_the_smallest(nb_widths):
    widths, nb_draws = FIVE[-nb_widths:], 3000
    drawn = widths_drawn("sandwich", widths, nb_draws)
    assert {(first, last) for first, _, last in drawn} == {(1.0, widths[0])}
    assert_uniform(Counter(middle for _, middle, _ in drawn), widths[1:-1], nb_draws)


@pytest.mark.parametrize("nb_widths", range(1, 6))
def test_random_draws_one_width_uniformly(nb_widths):
    widths, nb_draws = FIVE[-nb_widths:], 3000
    drawn = widths_drawn("random", widths, nb_draws)
    assert {len(each) for each in drawn} == {1}
    assert_uniform(Counter(width for (width,) in drawn), widths, nb_draws)


def assert_uniform(counts: Counter[float], among: tuple[float, ...], nb_draws: int) -> None:
    assert set(counts) == set(among)
    share = 1 / len(among)
    for width in among:  # within 4 standard errors
        assert abs(counts[width] / nb_draws - share) <= 4 * math.sqrt(share * (1 - share) / nb_draws)


@pytest.mark.parametrize("kind", ["All", "", None, 3])
def test_an_unknown_way_to_draw_widths_is_refused(kind):
    (fault,) = width_sampling_faults(kind, distills=False)
    assert fault == f"width_sampling must be one of ('all', 'sandwich', 'random'), got {kind!r}."


def test_distillation_needs_the_largest_width_in_every_step():
    assert "width_sampling must be 'all' or 'sandwich'" in width_sampling_faults("random", distills=True)[0]
    for kind, distills in (("all", True), ("sandwich", True), ("random", False)):
        assert width_sampling_faults(kind, distills=distills) == []
