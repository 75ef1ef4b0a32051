import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.fast import without_fast_paths
from art_oat.training.dropout import QuickDropout

CPU = torch.device("cpu")
RATES = (0.1, 0.3, 0.5, 0.9)


def share_kept(p: float) -> float:
    """The probability of being kept, in steps of 2^-16."""
    return round(2**16 * (1 - p)) / 2**16


def quickly(dropout, *arguments, seed: int | None = 0, **options) -> Tensor:
    """What a dropout gives where it is drawn quickly."""
    if seed is not None:
        torch.manual_seed(seed)
    with QuickDropout(CPU).installed():
        return dropout(*arguments, **options)


def by_torch(dropout, *arguments, seed: int = 0, **options) -> Tensor:
    torch.manual_seed(seed)
    return dropout(*arguments, **options)


def masks(nb_values: int, p: float, seed: int | None = 0) -> Tensor:
    """Which of many values are kept."""
    return quickly(F.dropout, torch.ones(nb_values), p, seed=seed) > 0


def positive(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values that differ from each other, in [1, 2)."""
    nb_values = math.prod(shape)
    return (1 + torch.randperm(nb_values).view(shape) / max(nb_values, 1)).to(dtype)


def is_kept_or_dropped(answer: Tensor, x: Tensor, p: float) -> bool:
    """Whether every value is 0 or that of ``x`` at its place by the probability of being kept, and both occur."""
    scaled = x * torch.tensor(1 / share_kept(p), dtype=x.dtype)
    is_dropped = answer == 0
    return bool((is_dropped | (answer == scaled)).all()) and 0 < int(is_dropped.sum()) < x.numel()


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_value_is_dropped_or_divided_by_the_probability_of_being_kept(p, dtype):
    x = positive(1001, dtype=dtype)
    answer = quickly(F.dropout, x, p)
    assert answer.dtype == dtype
    assert is_kept_or_dropped(answer, x, p)
    assert share_kept(p) == pytest.approx(1 - p, abs=2**-17)


@pytest.mark.parametrize("p", RATES)
def test_as_many_are_kept_as_the_binomial_says(p):
    nb_values, share = 1_000_000, share_kept(p)
    standard_error = math.sqrt(nb_values * share * (1 - share))
    assert abs(int(masks(nb_values, p).sum()) - nb_values * share) < 5 * standard_error


@pytest.mark.parametrize("p", RATES)
def test_the_four_masks_of_one_random_number_are_independent(p):
    """Every pattern of four neighbors is as frequent as the product of their probabilities."""
    nb_groups, share = 250_000, share_kept(p)
    groups = masks(4 * nb_groups, p).view(-1, 4).tolist()
    counts = dict.fromkeys(itertools.product((False, True), repeat=4), 0)
    for group in groups:
        counts[tuple(group)] += 1
    for pattern, count in counts.items():
        expected = math.prod(share if is_kept else 1 - share for is_kept in pattern)
        assert abs(count - nb_groups * expected) < 5 * math.sqrt(nb_groups * expected * (1 - expected))


def correlation(first: Tensor, second: Tensor) -> float:
    return torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1].item()


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 624 * 2])  # the last: the state of the generator is used up
def test_masks_of_different_places_are_independent(p, distance):
    kept = masks(1_000_000, p)
    # the correlation of n independent pairs has a standard error of 1 / sqrt(n)
    assert abs(correlation(kept[distance:], kept[:-distance])) < 5 / math.sqrt(1_000_000 - distance)


@pytest.mark.parametrize("p", RATES)
def test_masks_of_different_calls_are_independent(p):
    first, second = masks(1_000_000, p), masks(1_000_000, p, seed=None)
    assert abs(correlation(first, second)) < 5 / math.sqrt(1_000_000)


def test_the_same_seed_gives_the_same_masks_and_another_one_others():
    assert torch.equal(masks(1000, 0.5), masks(1000, 0.5))
    assert not torch.equal(masks(1000, 0.5), masks(1000, 0.5, seed=1))


def test_any_numbers_that_follow_are_independent_of_how_many_a_mask_took():
    """A tensor of one value takes a random number of its own, so that the next mask starts with a new one."""
    torch.manual_seed(0)
    kept = torch.stack([masks(1, 0.5, seed=None) for _ in range(4000)]).flatten()
    assert abs(correlation(kept[1:], kept[:-1])) < 5 / math.sqrt(3999)


@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (2,), (3,), (5,), (3, 0, 2), (7, 3, 5), (3, 5, 7, 3), (1, 3, 2, 3, 3)]
)
def test_tensors_of_any_size_are_masked_place_by_place(shape):
    x = positive(*shape)
    for seed in range(10):
        answer = quickly(F.dropout, x, 0.5, seed=seed)
        assert answer.shape == x.shape
        assert ((answer == 0) | (answer == 2 * x)).all()


LAYOUTS = {
    "channels last": lambda: positive(3, 5, 4, 3).contiguous(memory_format=torch.channels_last),
    "channels last in 3d": lambda: positive(2, 3, 2, 3, 3).contiguous(memory_format=torch.channels_last_3d),
    "channels last of one channel": lambda: positive(3, 1, 4, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: positive(9, 7).t(),
    "permuted": lambda: positive(3, 5, 4, 3).permute(3, 1, 0, 2),
    "every other": lambda: positive(40, 3)[::2],
    "part of the channels": lambda: positive(3, 9, 4, 3)[:, 2:7],
    "part of channels last": lambda: positive(3, 9, 4, 3).contiguous(memory_format=torch.channels_last)[:, 2:7],
    "expanded": lambda: positive(40, 1).expand(40, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_of_any_layout_is_masked_place_by_place_and_keeps_the_layout_that_torch_would_keep(layout):
    x = LAYOUTS[layout]()
    answer = quickly(F.dropout, x, 0.5)
    assert is_kept_or_dropped(answer, x, 0.5)
    assert answer.stride() == by_torch(F.dropout, x, 0.5).stride()


def test_copies_of_one_value_are_dropped_one_by_one():
    kept = quickly(F.dropout, torch.ones(1).expand(10_000), 0.5) > 0
    assert abs(int(kept.sum()) - 5000) < 5 * math.sqrt(10_000 / 4)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_in_place_it_writes_into_its_input(layout):
    x = LAYOUTS[layout]()
    before = x.clone()
    assert quickly(F.dropout, x, 0.5, inplace=True) is x
    assert is_kept_or_dropped(x, before, 0.5)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layout", ["channels last", "permuted"])
def test_the_gradient_is_the_mask_by_the_probability_of_being_kept(inplace, layout):
    x = LAYOUTS[layout]().requires_grad_()
    answer = quickly(F.dropout, x * 1, 0.3, inplace=inplace)
    upstream = torch.randn_like(answer)
    (gradient,) = torch.autograd.grad(answer, x, upstream)
    torch.testing.assert_close(gradient, upstream * (answer != 0) / share_kept(0.3), rtol=1e-15, atol=0)


def test_the_module_and_both_ways_to_call_the_function_are_met_alike():
    x = positive(5, 7)
    expected = quickly(F.dropout, x, 0.3)
    for dropout in (nn.Dropout(0.3), lambda x: F.dropout(x, p=0.3), lambda x: nn.functional.dropout(input=x, p=0.3)):
        assert torch.equal(quickly(dropout, x), expected)
    assert torch.equal(quickly(nn.Dropout(0.3, inplace=True), x.clone()), expected)
    assert not torch.equal(by_torch(F.dropout, x, 0.3), expected)


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0])
def test_nothing_is_dropped_at_0_and_everything_at_1(p):
    x = positive(5, 7)
    assert torch.equal(quickly(F.dropout, x, p), x * (1 - p))


@pytest.mark.parametrize(
    "dropout", [nn.Dropout(0.3).eval(), lambda x: F.dropout(x, 0.3, False), nn.Dropout2d(0.3).eval()]
)
def test_in_evaluation_nothing_is_dropped_and_nothing_drawn(dropout):
    x = positive(2, 3, 4, 4)
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    assert torch.equal(quickly(dropout, x, seed=None), x)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "dropout",
    [F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, nn.Dropout2d(), torch.dropout],
)
def test_other_dropout_is_that_of_torch(dropout):
    x = positive(4, 5, 3) if dropout is F.dropout1d else positive(4, 5, 3, 3)
    if dropout is F.dropout3d:
        x = x.unsqueeze(-1)
    options = (
        {} if isinstance(dropout, nn.Module) else {"p": 0.5, "train" if dropout is torch.dropout else "training": True}
    )
    expected = by_torch(dropout, x, **options)
    assert not torch.equal(expected, x)
    assert torch.equal(quickly(dropout, x, **options), expected)


@pytest.mark.parametrize(
    ("x", "p"),
    [
        (torch.ones(4), -0.1),
        (torch.ones(4), 1.1),
        (torch.arange(4), 0.5),
        (torch.ones(4) * 1j, 0.5),
        (torch.ones(4), math.nan),
    ],
)
def test_what_torch_refuses_is_refused_alike(x, p):
    with pytest.raises((ValueError, RuntimeError)) as expected:
        F.dropout(x, p)
    with pytest.raises(expected.type) as caught:
        quickly(F.dropout, x, p)
    assert str(caught.value) == str(expected.value)


def test_after_a_block_without_dropout_it_is_looked_for_no_more():
    quick, x = QuickDropout(CPU), positive(5, 7)
    with quick.installed():
        torch.relu(x)
    with quick.installed():
        answer = by_torch(F.dropout, x)
    assert torch.equal(answer, by_torch(F.dropout, x))
    assert quick.installed() is not quick


@pytest.mark.parametrize("training", [True, False])
def test_after_a_block_with_dropout_it_stays(training):
    quick, x = QuickDropout(CPU), positive(5, 7)
    for _ in range(3):
        with quick.installed():
            F.dropout(x, training=training)
    with quick.installed():
        answer = by_torch(F.dropout, x)
    assert torch.equal(answer, quickly(F.dropout, x))


def test_outside_of_its_block_dropout_is_that_of_torch_also_after_an_error():
    x = positive(5, 7)
    expected = by_torch(F.dropout, x)
    with pytest.raises(OSError, match="broken"), QuickDropout(CPU).installed():
        raise OSError("broken")
    assert torch.equal(by_torch(F.dropout, x), expected)
    quickly(F.dropout, x)
    assert torch.equal(by_torch(F.dropout, x), expected)


def test_elsewhere_than_on_a_processor_and_where_it_is_switched_off_dropout_is_that_of_torch():
    x = positive(5, 7)
    expected = by_torch(F.dropout, x)
    with QuickDropout(torch.device("cuda")).installed():
        assert torch.equal(by_torch(F.dropout, x), expected)
    with without_fast_paths("dropout"):
        assert torch.equal(quickly(F.dropout, x), expected)
