import numpy as np
import pytest

from art_oat.attacks import Radius, check_radii, format_apart, format_eps, parse_eps

CIFAR = (3, 32, 32)


def radius(eps, norm="Linf", clip_values=(0, 1), input_shape=CIFAR) -> Radius:
    return Radius(eps, norm, clip_values, input_shape)


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (8 / 255 + 5e-10, "8/255"),
        (0.5 / 255, "0.5/255"),
        (128 / 255, "128/255"),
        (0.2, "0.2"),  # which is 51/255, too
        (51 / 255, "0.2"),
        (0.5, "0.5"),
        (1.0, "1"),
        (2, "2"),
        (0.031, "0.031"),
        (1.43 / 255, "0.00561"),
        (8 / 255 + 5e-9, "0.0314"),
        (1e-10, "1e-10"),
        (1280.0, "1280"),
        (np.float32(0.25), "0.25"),
    ],
)
def test_a_radius_is_written_as_people_do(eps, text):
    assert format_eps(eps) == text


@pytest.mark.parametrize("text", ["8/255", "0.5/255", "0.2", "0.031", "128/255", "1e-10"])
def test_what_was_written_is_read_as_the_same_number(text):
    assert format_eps(parse_eps(text)) == text


def test_fractions_are_divided_and_decimals_are_as_before():
    assert parse_eps("8/255") == parse_eps(" 8 / 255 ") == 8 / 255
    assert parse_eps("0.1") == 0.1


@pytest.mark.parametrize("text", ["", "8:255", "8/", "/255", "8/0", "8/255/2", "eight"])
def test_what_is_no_number_and_no_fraction_is_refused(text):
    with pytest.raises(ValueError, match=r"eps must be a number or a fraction, such as 0.2 or 8/255, got '"):
        parse_eps(text)


def test_different_radii_are_never_written_alike():
    assert format_apart(8 / 255, 0.2) == ("8/255", "0.2")
    assert format_apart(0.03333, 0.033331) == ("0.03333", "0.033331")


@pytest.mark.parametrize(
    ("norm", "shape", "largest"),
    [("Linf", CIFAR, 0.5), ("L2", CIFAR, np.sqrt(3072) / 2), ("L1", CIFAR, 1536), ("Linf", None, 0.5)],
)
@pytest.mark.parametrize(("low", "span"), [(0, 1), (-1, 2), (0, 255)])
def test_half_the_range_in_the_norm_is_too_large(norm, shape, largest, low, span):
    clip_values = (np.float32(low), np.float32(low + span))  # as ART keeps them
    assert radius(0.999 * span * largest, norm, clip_values, shape).faults() == []
    (fault,) = radius(span * largest, norm, clip_values, shape).faults()
    assert fault.startswith("eps must be below")
    assert radius(span * largest, norm, clip_values, shape).faults(allow_large_eps=True) == []


def test_half_the_range_makes_all_inputs_the_same_and_less_does_not():
    """The corner of the box is as far from its middle as any input: the diameter over two, in every norm."""
    low, high = np.zeros(12), np.linspace(1, 3, 12)
    for norm, order in {"Linf": np.inf, "L2": 2, "L1": 1}.items():
        largest = np.linalg.norm(high - (low + high) / 2, order)
        bounds = (low.reshape(3, 2, 2), high.reshape(3, 2, 2))
        assert radius(1.001 * largest, norm, bounds, (3, 2, 2)).faults()
        assert not radius(0.999 * largest, norm, bounds, (3, 2, 2)).faults()


def test_a_fault_says_the_unit_and_what_to_write():
    (fault,) = radius(8).faults()
    for part in ("below 0.5 (Linf)", "got 8.", "clip_values are [0, 1]", "write 8 / 255", "allow_large_eps=True"):
        assert part in fault
    assert "write 2 * 8 / 255" in radius(8, clip_values=(-1, 1)).faults()[0]
    assert "write" not in radius(0.5).faults()[0]


@pytest.mark.parametrize(
    ("eps", "norm", "clip_values", "is_doubted"),
    [
        (0.2, "Linf", (0, 255), True),
        (0.3, "Linf", (0, 255), True),
        (8 / 255, "Linf", (0, 255), True),
        (0.5, "Linf", (0, 255), False),
        (0.5, "L2", (0, 255), True),
        (1, "L2", (0, 255), False),
        (0.25 / 255, "Linf", (0, 1), False),
        (0.24 / 255, "Linf", (0, 1), True),
        (8 / 255 / 255, "Linf", (0, 1), True),
        (0.5 / 255, "L2", (0, 1), False),
        (1e-9, "Linf", None, False),
    ],
)
def test_a_quarter_of_a_level_is_doubted_and_half_a_level_of_bytes(eps, norm, clip_values, is_doubted):
    assert bool(radius(eps, norm, clip_values).doubts()) == is_doubted


@pytest.mark.parametrize(
    "unclear",
    [
        radius(8, clip_values=None),
        radius(8, "L2", (0, 1), None),  # of what is not known how large it is
        radius(float("nan")),
        radius(-8),
        radius("8"),
        radius(8, clip_values=(np.zeros((5, 1)), np.ones((5, 1)))),
    ],
)
def test_where_nothing_can_be_said_nothing_is(unclear):
    assert unclear.faults() == []


def test_all_doubts_are_one_warning_and_faults_come_first():
    tiny, large = radius(1e-5), radius(8)
    with pytest.raises(ValueError, match="must be below"):
        check_radii([tiny, large], allow_large_eps=False)
    with pytest.warns(UserWarning, match="next to nothing") as caught:
        check_radii([tiny, tiny, large], allow_large_eps=True)
    assert len(caught) == 1
