import numpy as np
import pytest

from art_oat.models.arguments import refuse_faults


def test_counts_from_1_and_probabilities_from_0_below_1_are_taken():
    counts, sizes = {"depth": 1, "width": np.int64(2)}, {"channels": (1, np.uint8(2)), "depths": np.array([3])}
    refuse_faults(counts=counts, sizes=sizes, probabilities={"dropout": 0.0, "drop_path": np.float32(0.9)})


def test_every_fault_is_named_in_one_error():
    faults = (
        r"depth must be a whole number, at least 1, got 0.*blocks must hold .* got \(2, 0\).*stages must .* got \[\].*"
        r"dropout must lie in .* got 1\. No\."
    )
    sizes = {"blocks": (2, 0), "stages": [], "channels": (1, 2)}
    with pytest.raises(ValueError, match=faults):
        refuse_faults(
            counts={"depth": 0, "heads": 2}, sizes=sizes, probabilities={"dropout": 1}, others=lambda: ["No."]
        )


@pytest.mark.parametrize("sizes", [(4, 2.5), 3, "34", None, np.zeros((2, 2), dtype=int), [True]], ids=str)
def test_what_is_of_another_kind_is_named_and_nothing_is_computed_with_it(sizes):
    with pytest.raises(
        TypeError, match=r"depth must .* got '3'\. channels must hold whole numbers, each at least 1, got "
    ):
        refuse_faults(counts={"depth": "3"}, sizes={"channels": sizes}, others=lambda: ["3" - 1])
