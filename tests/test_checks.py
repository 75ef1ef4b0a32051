import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from art_oat.checks import (
    as_array,
    class_indices,
    input_faults,
    is_non_finite,
    is_soft,
    label_faults,
    range_faults,
    refuse,
    rounding,
    soft_label_faults,
    target_faults,
    warn_caller,
)

SHAPE = (1, 2, 2)


def faulty(value: float) -> np.ndarray:
    x = np.zeros((3, *SHAPE), dtype=np.float32)
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_real_numbers_of_the_right_shape_are_fine(dtype):
    assert input_faults(np.zeros((3, *SHAPE), dtype=dtype), SHAPE) == []


@pytest.mark.parametrize(
    ("x", "fault"),
    [
        *((faulty(value), "be finite, got NaN or infinity in 1 of 3 samples") for value in (np.nan, np.inf, -np.inf)),
        *(
            (np.zeros(shape), f"have shape (N, 1, 2, 2), got {shape}")
            for shape in ((3, 2, 2), (3, 1, 2, 3), (1, 2, 2), ())
        ),
        *(
            (np.zeros(3, dtype=dtype), f"hold real numbers, got dtype {np.dtype(dtype)}")
            for dtype in ("U1", complex, bool, object)
        ),
    ],
)
def test_what_is_wrong_with_inputs_is_named(x, fault):
    assert input_faults(x, SHAPE) == [f"x must {fault}."]


def test_values_outside_the_clip_range_are_named():
    assert range_faults(faulty(0.5), (0, 1)) == []
    (fault,) = range_faults(faulty(255), (0, 1))
    assert fault.startswith("x must lie within clip_values [0, 1], got [0.0, 255.0].")


@pytest.mark.parametrize("bounds", [(0, 1), (-0.42421296, 2.8214867), (0, 255), (1000.0, 1001.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_no_way_out_of_the_clip_range_and_ten_times_as_much_is(bounds, dtype):
    """1e-6 of the span, or of the larger bound where that is more, as float32 keeps 6e-8 of a number."""
    low, high = (np.float32(bound) for bound in bounds)
    size = max(bounds[1] - bounds[0], *map(abs, bounds))
    for excess, is_fine in ((3e-7, True), (1e-5, False)):
        for x in (low - excess * size, high + excess * size):
            faults = range_faults(np.array([[x]], dtype=dtype), np.array([low, high]))
            assert (faults == []) == is_fine


def test_rounding_is_that_of_each_feature():
    assert rounding((np.array([0.0, 0.0]), np.array([1.0, 255.0]))) == pytest.approx(np.array([1e-6, 255e-6]))


@pytest.mark.parametrize("y", [np.array([0, 4, 2]), np.array([[0], [4], [2]]), np.eye(5)[[0, 4, 2]]])
def test_labels_may_be_indices_columns_or_one_hot(y):
    assert label_faults(y, 3, 5) == []
    assert class_indices(y, 5).tolist() == [0, 4, 2]


@pytest.mark.parametrize(
    ("y", "fault"),
    [
        (np.array([0, 5, -1]), "y must hold class indices in [0, 5), got -1, 5."),
        (np.array([0, 0.5, 1]), "y must hold class indices in [0, 5), got 0.5."),
        (np.array([0, np.nan, 1]), "y must hold class indices in [0, 5), got nan."),
        (np.array([0, 1]), "y must hold one label per sample, 3, got 2."),
        (np.zeros((3, 4)), "y must be indices (N,) or one-hot (N, 5), got shape (3, 4)."),
        (np.full((3, 5), 0.2), "y must hold exactly one 1 per row where it is one-hot."),
        (np.array(["a", "b", "c"]), "y must hold whole numbers, got dtype <U1."),
        (
            np.array([7, 8]),
            "y must hold one label per sample, 3, got 2. y must hold class indices in [0, 5), got 7, 8.",
        ),
    ],
)
def test_faulty_labels_are_named(y, fault):
    assert " ".join(label_faults(y, 3, 5)) == fault


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_sum_1_up_to_rounding_are_soft_labels(dtype):
    y = np.random.default_rng(0).dirichlet(np.ones(5), 50).astype(dtype)
    assert is_soft(y, 5)
    assert soft_label_faults(y) == []


@pytest.mark.parametrize("y", [np.arange(5.0), np.eye(5), np.eye(5, dtype=int), np.ones((5, 1)), np.ones((5, 3)) / 3])
def test_indices_one_hot_and_rows_of_other_length_are_not_soft(y):
    assert not is_soft(y, 5)


def test_rows_that_are_no_probabilities_are_counted():
    y = np.array([[0.5, 0.5], [0.5, 0.6], [1.5, -0.5], [np.nan, 0.5], [0, 0]])
    assert soft_label_faults(y, "z") == ["z must hold probabilities of sum 1 per row, got 4 of 5 rows that are none."]


def test_refusing_names_every_fault():
    refuse([])
    with pytest.raises(ValueError, match=r"^one\. two\.$"):
        refuse(["one.", "two."])


def test_arrays_that_torch_would_warn_of_are_copied():
    array = np.arange(3.0)
    array.flags.writeable = False  # as joblib hands arrays to its workers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.from_numpy(as_array(array, "x")).tolist() == [0.0, 1.0, 2.0]
    flipped = np.arange(3.0)[::-1]
    assert torch.from_numpy(as_array(flipped, "x")).tolist() == [2.0, 1.0, 0.0]
    fit = np.arange(3.0)
    assert as_array(fit, "x") is fit


BRAIN_FLOATS = torch.tensor([0.5, -1.25, 3.0], dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "data",
    [
        BRAIN_FLOATS,
        BRAIN_FLOATS.to(torch.float8_e4m3fn),
        torch.tensor([0.5, -1.25, 3.0], requires_grad=True),
        np.array([0.5, -1.25, 3.0], dtype=np.longdouble),
        np.array([0.5, -1.25, 3.0], dtype=">f8"),
        np.ma.array([0.5, -1.25, 3.0]),
        np.array([0.5, 9, -1.25, 9, 3.0])[::2],
        [torch.tensor(0.5), torch.tensor(-1.25), np.float16(3)],
    ],
    ids=lambda data: str(getattr(data, "dtype", "list")),
)
def test_numbers_of_every_kind_become_an_array_that_torch_reads(data):
    array = as_array(data, "x")
    assert type(array) is np.ndarray
    assert torch.from_numpy(array).tolist() == [0.5, -1.25, 3.0]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.ma.array([1.0, 2.0], mask=[0, 1]), ValueError, "y must hold no masked values, got 1 of 2"),
        (np.ma.masked, ValueError, "y must hold no masked values, got 1 of 1"),
        (torch.zeros(2, device="meta"), TypeError, "y must be an array, got Tensor that is none"),
        (torch.zeros(2).to_sparse(), TypeError, "y must be an array, got Tensor that is none"),
        ([[1], [1, 2]], TypeError, "y must be an array, got list that is none"),
        ([torch.zeros(2, device="meta")], TypeError, "y must be an array, got list that is none"),
    ],
    ids=str,
)
def test_what_is_no_array_or_a_masked_one_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        as_array(data, "y")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint64])
def test_samples_that_float32_does_not_hold_are_not_finite(dtype):
    x = np.zeros((4, *SHAPE), dtype=dtype)
    x[1] = np.finfo(np.float64).max if dtype == np.float64 else 0
    if dtype != np.uint64:
        x[2, 0, 1, 1], x[3, 0, 0, 1] = np.nan, -np.inf
    expected = {np.float64: [1, 2, 3], np.uint64: []}.get(dtype, [2, 3])
    assert np.flatnonzero(is_non_finite(x)).tolist() == expected
    assert is_non_finite(x[:0]).shape == (0,)


def test_weights_of_classes_are_compared_with_scores_whatever_their_sum():
    assert target_faults(np.full((3, 2), 7.0), 3, 2) == []
    assert target_faults(np.array([0, 1, 2]), 3, 2) == ["y must hold class indices in [0, 2), got 2."]
    assert target_faults(np.array(1), 3, 2) == ["y must hold one label per sample, 3, got a single value."]


def called_through(*packages: str):
    """Return a call of ``warn_caller`` by way of functions that live in these packages, the outermost first."""
    call = warn_caller
    for name in reversed(packages):
        names = {"__name__": name, "call": call}
        exec("def hop(message, category=UserWarning):\n    call(message, category)", names)
        call = names["hop"]
    return call


@pytest.mark.parametrize(
    "packages", [(), ("art_oat.evaluation",), ("art_oat", "art.attacks.evasion", "art_oat.classifier")]
)
def test_a_warning_names_the_line_that_called_the_library(packages):
    with pytest.warns(UserWarning, match="hello") as caught:
        called_through(*packages)("hello")
    assert [Path(warning.filename).name for warning in caught] == ["test_checks.py"]


def test_other_packages_are_callers_whatever_their_names_begin_with():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        called_through("artful", "art_oat.classifier")("hello", DeprecationWarning)
    assert [(warning.filename, warning.category) for warning in caught] == [("<string>", DeprecationWarning)]
