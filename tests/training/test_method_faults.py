import pytest

from art_oat.numbers import flag_faults
from art_oat.training.method_faults import attack_faults, size_faults, step_of


def test_a_step_that_is_meant_for_the_fallback_is_none_for_an_attack_of_one_step():
    assert step_of("n-fgsm", "pgd-7", 0.1) is None
    assert [step_of("pgd-3", "pgd-7", 0.1), step_of("n-fgsm", None, 0.1)] == [0.1, 0.1]


def test_a_fault_that_both_attacks_have_is_named_once():
    assert attack_faults("pgd-3", "pgd-7", eps=-1, norm="Linf", eps_step=None) == [
        "eps must be a number above 0, got -1."
    ]


@pytest.mark.parametrize("limit", [1e-6, 1, 100.0, None])
def test_numbers_in_range_have_no_faults(limit):
    assert size_faults(ema=0.5, clip_grad_norm=limit, clean_share=0, eps_warmup=0.99) == []


def test_every_number_and_claim_that_is_none_is_named():
    faults = size_faults(ema=1, clip_grad_norm=0, clean_share=1) + flag_faults({"first": True, "second": "yes"})
    assert [fault.partition(" must ")[0] for fault in faults] == ["clean_share", "ema", "clip_grad_norm", "second"]
