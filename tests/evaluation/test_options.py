import pytest

from art_oat.evaluation import EvaluationOptions, ThreatModel


def test_a_plain_radius_is_one_in_linf_and_a_threat_model_is_itself():
    assert ThreatModel.of(0.1) == ThreatModel(0.1, "Linf", allow_large_eps=False)
    assert ThreatModel.of(ThreatModel(0.1, "L2")) == ThreatModel(0.1, "L2")


def test_the_options_that_nobody_chose_are_valid_for_every_measurement():
    assert EvaluationOptions().faults() == EvaluationOptions().faults(unused=("state", "nb_robust")) == []


def test_every_faulty_option_is_named():
    options = EvaluationOptions(shard_size=0, seed=1.5, nb_workers=True, nb_robust=0.5, latency_batch_size=-1)
    names = ("shard_size", "nb_workers", "latency_batch_size", "nb_robust", "seed")
    assert [fault.split()[0] for fault in options.faults()] == [*names]


@pytest.mark.parametrize("unused", [("nb_robust",), ("nb_robust", "state")])
def test_an_option_that_a_measurement_does_not_use_is_refused_where_it_is_given(unused):
    options = EvaluationOptions(nb_robust=5, state="folder")
    assert options.faults(unused=unused) == [
        f"{' and '.join(reversed(unused))} must be left out here: this measurement does not use it."
    ]
