import copy
import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from art_oat.evaluation import cost
from art_oat.evaluation.cost import Cost, measure_costs, readable
from tests.networks import Residual, images

SECONDS = 1e-9  # so that there are five rounds


def measured(network: nn.Module, *input_shape: int, **options) -> Cost:
    return measure_costs({1.0: network}, input_shape, seconds=SECONDS, **options)[1.0]


@pytest.mark.parametrize(
    ("layer", "input_shape", "outputs", "per_output"),
    [
        (nn.Conv2d(8, 12, 3, padding=1), (8, 6, 6), 12 * 6 * 6, 8 * 9),
        (nn.Conv2d(8, 12, 3, stride=2), (8, 7, 7), 12 * 3 * 3, 8 * 9),
        (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 6, 6), 12 * 6 * 6, 2 * 9),
        (nn.Conv2d(8, 8, (3, 1), groups=8), (8, 6, 6), 8 * 4 * 6, 3),
        (nn.Conv1d(8, 12, 3), (8, 6), 12 * 4, 8 * 3),
        (nn.Linear(7, 5), (7,), 5, 7),
        (nn.Linear(7, 5), (4, 7), 4 * 5, 7),
        # a transposed one takes one per input and weight that it meets
        *((nn.ConvTranspose2d(8, 12, 3, stride=2, groups=n), (8, 6, 6), 8 * 6 * 6, 12 // n * 9) for n in (1, 4)),
    ],
)
def test_a_layer_takes_one_multiplication_per_output_and_weight_it_reads(layer, input_shape, outputs, per_output):
    assert measured(layer, *input_shape).macs == outputs * per_output


def test_the_count_of_a_network_is_the_sum_over_its_layers_whatever_the_batch():
    body = 36 * 6 * 9 + 9 * 8 * 6 * 9  # 6x6 to 3x3
    for batch_size in (1, 4):
        assert measured(Residual(), 1, 6, 6, batch_size=batch_size).macs == body + 9 * 8 * 1 + 8 * 5


def test_parameters_are_counted_once_where_they_are_shared():
    shared = nn.Linear(4, 4)
    assert measured(nn.Sequential(shared, nn.BatchNorm1d(4), shared), 4).parameters == (4 * 4 + 4) + 2 * 4


class Sleepy(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds * len(x))
        return x


def test_the_latency_is_that_of_a_batch():
    costs = measure_costs({0.5: Sleepy(0.001), 1.0: Sleepy(0.002)}, (3,), batch_size=4, seconds=SECONDS)
    assert costs[0.5].latency >= 0.004  # sleeping takes at least what was asked for
    assert costs[1.0].latency >= 0.008


class Spy(nn.Module):
    def __init__(self, name: str, calls: list) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, x):
        self.calls.append((self.name, len(x), self.training, torch.is_grad_enabled()))
        return x


def test_networks_take_turns_in_evaluation_mode_without_gradients():
    calls: list = []
    measure_costs({0.5: Spy("A", calls), 1.0: Spy("B", calls)}, (3,), batch_size=2, seconds=SECONDS)
    timed = [name for name, size, *_ in calls if size == 2]
    assert timed == ["A", "B"] * 6  # one that does not count, and five rounds
    assert {(is_training, has_gradients) for *_, is_training, has_gradients in calls} == {(False, False)}


def test_the_latency_is_the_median_of_the_rounds_after_the_first(monkeypatch):
    durations = iter([100.0, 5.0, 1.0, 3.0, 90.0, 2.0])
    monkeypatch.setattr(cost, "_seconds", lambda network, x: next(durations))
    assert measured(nn.Linear(2, 2), 2).latency == 3.0


def test_rounds_go_on_for_as_long_as_asked(monkeypatch):
    clock, passes = SimpleNamespace(now=0.0), []

    def one_second(network, x):
        clock.now += 1
        passes.append(network)
        return 1.0

    monkeypatch.setattr(cost, "_seconds", one_second)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    measure_costs({0.5: nn.Linear(2, 2), 1.0: nn.Linear(2, 2)}, (2,), seconds=10)
    assert len(passes) == 2 * (1 + 10)  # one that does not count, and ten rounds


def test_networks_are_left_as_they_were_also_where_one_fails():
    network = Residual().train()
    network.body.eval()
    before, modes = copy.deepcopy(network.state_dict()), [part.training for part in network.modules()]
    measured(network, 1, 6, 6)
    with pytest.raises(RuntimeError):
        measured(network, 3)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_is_measured_in_its_own_dtype(dtype):
    assert measured(nn.Linear(4, 2).to(dtype), 4).macs == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"seconds": 0}, "seconds must be a number above 0, got 0"),
        ({"seconds": math.inf}, "seconds must be a number above 0"),
    ],
)
def test_faulty_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measure_costs({1.0: Residual()}, images().shape[1:], **options)


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0.29e9, 0.6521e9, 1.159e9], " MACs", ["0.29 G MACs", "0.652 G MACs", "1.16 G MACs"]),
        ([0.0129, 0.045], "s", ["12.9 ms", "45 ms"]),
        ([0.00012, None], "s", ["0.12 ms", ""]),
        ([1.5], "s", ["1.5 s"]),
        ([42, 999], " MACs", ["42 MACs", "999 MACs"]),
        ([999_700], "", ["1000 k"]),
        ([0], "", ["0"]),
        ([None], "s", [""]),
    ],
)
def test_numbers_are_written_with_three_digits_and_the_prefix_of_the_largest(values, unit, expected):
    assert readable(values, unit) == expected
