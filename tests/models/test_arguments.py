import pytest

from art_oat.models.arguments import refuse_faults


def test_counts_from_1_and_probabilities_from_0_below_1_are_taken():
    refuse_faults({"depth": 1}, {"dropout": 0.0, "drop_path": 0.999})


def test_every_fault_is_named_in_one_error():
    with pytest.raises(ValueError, match=r"depth must be at least 1, got 0.*dropout must lie in .* got 1\. No\."):
        refuse_faults({"depth": 0, "channels": 2}, {"dropout": 1}, ["No."])
