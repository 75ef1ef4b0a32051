"""Costs and times on paper keep to the closed forms, and the page shows what was kept."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import distributed

from art_oat.storage import read_rows
from benchmarks import scale_page
from benchmarks.cluster import CALL, ETHERNET, FABRICS, H100, INFINIBAND, PER_NODE, PROTOCOLS
from benchmarks.cost import arithmetic_of
from benchmarks.exchange import Message, exchanged
from benchmarks.pages import marked
from benchmarks.scale import ALL, CONVNEXT, TINY, cost_row, train, work_of
from benchmarks.scale_model import Cluster, Work, most_attacked, nb_attacked
from benchmarks.steps import step_for
from benchmarks.tables import DOCS, RESULTS

PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")
CLUSTER = Cluster(H100, 0.35, INFINIBAND, has_own_samples=True)
WORK = Work(clean=2e10, attacked=4e10, nb_calls=0, image=0)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("nb", [2, 8, 64])
def test_long_messages_take_the_time_of_a_ring_and_empty_ones_that_of_its_fastest_steps(fabric, nb):
    bandwidth = fabric.within if nb <= PER_NODE else min(fabric.within, fabric.between)
    long = 1e13
    assert fabric.seconds(long, nb) == pytest.approx(2 * (nb - 1) / nb * long / bandwidth, rel=1e-3)
    assert 0 < fabric.seconds(0, nb) < 1e-4
    assert fabric.seconds(long, 1) == 0


def test_short_messages_among_many_machines_go_by_a_tree_in_time_of_the_logarithm():
    start, within, between = next(
        (it.start, it.within, it.between) for it in PROTOCOLS if it.is_tree and it.share < 0.5
    )
    expected = start + 2 * (PER_NODE - 1) * within + 2 * math.log2(32) * between
    assert ETHERNET.seconds(0, 32 * PER_NODE) == pytest.approx(expected)


def test_a_step_that_sends_nothing_and_is_shared_out_evenly_is_as_many_times_faster_as_there_are_gpus():
    alone = replace(CLUSTER, has_own_samples=False).times(WORK, Counter(), 6 * 64, 1)
    several = replace(CLUSTER, has_own_samples=False).times(WORK, Counter(), 6 * 64, 64)
    assert nb_attacked(6 * 64) == 5 * 64
    assert several.total == pytest.approx(alone.total / 64)
    assert alone.total == pytest.approx(6 * 64 * (2e10 + 5 / 6 * 4e10) / (H100.peak * 0.35))


def test_what_is_hidden_behind_the_pass_backward_is_no_more_than_it_or_what_is_sent():
    for nb_bytes in (1, 1e12):
        times = CLUSTER.times(WORK, Counter([Message("all_reduce", nb_bytes)]), 1024, 64)
        assert times.total - times.overlapped == pytest.approx(min(times.sending, times.backward))


@pytest.mark.parametrize(("joint", "nb"), [(26, 2), (1024, 8), (1024, 256)])
def test_dealt_in_turns_attacked_samples_differ_by_less_than_one_from_their_mean_and_dealt_at_random_by_more(joint, nb):
    mean = nb_attacked(joint) / nb
    assert mean <= most_attacked(joint, nb, at_random=False) < mean + 1
    assert most_attacked(joint, nb, at_random=True) > mean


def test_the_largest_of_two_random_shares_has_the_mean_of_its_distribution():
    # 12 samples, 10 of them attacked, in two shares of 6: the two others meet in one share with probability 5 / 11
    expected = 5 / 11 * 6 + 6 / 11 * 5
    assert most_attacked(12, 2, at_random=True) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(100))


def test_work_of_a_step_is_linear_in_clean_and_attacked_samples():
    work, step = work_of(TINY, "n-fgsm"), step_for(TINY.trainer("n-fgsm"))
    found = arithmetic_of(partial(step, *TINY.batch(12))).flops
    assert found == pytest.approx(work.flops(12, 10), rel=1e-4)  # FiLM of a lam is computed once, whatever the batch


@pytest.mark.slow(seconds=1)
def test_convnext_t_has_the_parameters_and_multiplications_that_are_published():
    network = CONVNEXT.build()  # 28.6 M and 4.5 G in table 9 of arXiv:2201.03545
    assert sum(it.numel() for it in network.parameters()) == pytest.approx(28.6e6, rel=2e-3)
    with torch.no_grad():
        flops = arithmetic_of(lambda: network(torch.zeros(1, 3, 224, 224))).flops
    assert flops / 2 == pytest.approx(4.5e9, rel=0.011)


def test_a_cost_is_that_of_all_images_at_a_share_of_the_peak_of_eight_gpus():
    row = cost_row(1e11, H100, 0.2)
    seconds = 100 * 1_281_167 * 1e11 / (8 * 989.4e12 * 0.2)
    assert float(row["hours"]) == pytest.approx(seconds / 3600, abs=0.006)
    assert float(row["GPU-hours"]) == pytest.approx(8 * seconds / 3600, abs=0.06)


@pytest.mark.slow
def test_two_processes_send_the_gradient_once_and_two_messages_for_each_joint_norm_and_pass():
    own, joint = (exchanged(partial(train, TINY, ALL, sync_norms, 32)) for sync_norms in (False, True))
    nb_parameters = sum(it.numel() for it in TINY.trainer("n-fgsm").get_classifier().model.parameters())
    assert max(message.nb_bytes for message in own) == 4 * nb_parameters
    assert own[Message("all_reduce", 4 * nb_parameters)] == 1
    # what was drawn, who has gradients, they themselves, losses and counts, running statistics, their counts
    assert own.total() == 6
    # each of 3 norms has one for lam 0 and one for the others, and the pass after the attack has samples for the second
    # alone: a sum of values and one of squares, forward and back; for the first a sum that says that it has none
    assert (joint - own).total() == 3 * (3 * 2 * 2 + 1)


def test_nothing_is_watched_any_longer_once_it_was():
    before = distributed.all_reduce
    from benchmarks.exchange import watched

    with watched():
        assert distributed.all_reduce is not before
    assert distributed.all_reduce is before


@pytest.mark.parametrize("name", ["flops", "cost", "messages", "limits"])
def test_the_page_shows_what_was_kept(name):
    assert marked(name, scale_page.tables()[name]) in PAGE


def test_the_steps_that_were_kept_have_the_flops_of_their_passes():
    # forward F, backward 2 F: a clean pass is 3 F but for the gradient to images; attacks take 2 F for each gradient
    rows = {(row["network"], row["attack"]): row for row in read_rows(RESULTS / "scale_flops.csv")}
    forward = 8.911
    for attack, passes in (("n-fgsm", 2 + 3), ("apgd-2", 4 + 1 + 3), ("pgd-7", 14 + 3)):
        row = rows["convnext-t", attack]
        assert float(row["GFLOP, clean"]) == pytest.approx(3 * forward, rel=2e-3)
        assert float(row["GFLOP, attacked"]) == pytest.approx(passes * forward, rel=2e-3)


def kept(table: str, **given: str) -> dict[str, str]:
    rows = read_rows(RESULTS / f"scale_{table}.csv")
    (row,) = [row for row in rows if all(row[name.replace("_", " ")] == value for name, value in given.items())]
    return row


def efficiency(network: str, **given: str) -> dict[str, str]:
    usual = {"attack": "n-fgsm", "scaling": "weak, 128 per GPU", "between_machines": INFINIBAND.name}
    usual |= {"loads": "its own", "norms": "own", "GPUs": "256"}
    return kept("efficiency", network=network, **(usual | given))


def claims() -> Iterator[str]:
    """Sentences of the page, with what was kept."""
    cost = partial(kept, "cost", accelerator="H100 SXM", utilization="0.2")
    checkpointed, six, two = (
        [cost(attack=attack, what=what)["times OAT"] for attack in ("n-fgsm", "pgd-7")]
        for what in ("OAT, checkpointed", "6 networks", "2 networks")
    )
    yield f"it costs {checkpointed[0]} times the arithmetic with N-FGSM and {checkpointed[1]} with PGD-7"
    yield f"cost {six[0]} (N-FGSM) to {six[1]} (PGD-7) times one OAT network, two of them {two[0]} to {two[1]} times"
    yield f"{int(cost(attack='n-fgsm', what='OAT')['images/s']):,} decoded"
    fast, slow = efficiency("convnext-t"), efficiency("convnext-t", between_machines=ETHERNET.name)
    yield f"sends for {fast['ms sending']} ms in 256 processes and computes for {fast['ms even']} ms"
    yield f"keeps an efficiency of {fast['efficiency']}"
    first = efficiency("convnext-t", between_machines=ETHERNET.name, GPUs="16")
    yield f"{first['ms sending']} ms at 16 GPUs, efficiency {first['efficiency']}"
    yield f"little more after that, {slow['efficiency']} at 256"
    yield f"at most {slow['efficiency, overlapped']} there, and {fast['efficiency, overlapped']} with the fast ones"
    uneven = efficiency("wrn-28-10", attack="pgd-7")
    yield f"{uneven['ms uneven']} ms of {uneven['ms even']} on WRN-28-10"
    loading = efficiency("convnext-t", loads="all")
    yield f"{loading['ms loading']} ms of bytes a step at 256 GPUs, efficiency {loading['efficiency']}"
    nb_calls = int(kept("flops", network="convnext-t", attack="n-fgsm")["calls per step"])
    yield f"is {nb_calls} calls, {1000 * CALL * nb_calls:.0f} ms"
    strong = efficiency("convnext-t", scaling="strong, 1024", GPUs="32")
    yield f"compute for {strong['ms even']} ms, and the efficiency is {strong['efficiency']}"
    own, joint = (
        kept("messages", network="resnet-18", loads="its own", norms=norms)["messages"] for norms in ("own", "joint")
    )
    yield f"send {joint} messages a step on ResNet-18 in place of {own}"
    own, joint = (efficiency("resnet-18", norms=norms) for norms in ("own", "joint"))
    yield f"{joint['ms sending']} ms in place of {own['ms sending']} at 256 GPUs"
    yield f"efficiency {joint['efficiency']} in place of {own['efficiency']}"


@pytest.mark.parametrize("claim", list(claims()))
def test_the_page_says_what_was_kept(claim):
    assert claim in " ".join(PAGE.split())


def test_the_python_of_the_page_runs_in_a_lone_process():
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "scale.md", "exec"), {})
