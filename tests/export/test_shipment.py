import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from art_oat.export.shipment import ShippedNetwork
from tests.export.subjects import folded, shipment
from tests.networks import LAMBDAS, images


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_shipped_network_takes_and_gives_float32_whatever_it_computes_in(dtype):
    x = images(4, torch.float32)
    network = folded()
    expected = network(x)
    answer = ShippedNetwork(network.to(dtype), [], dtype)(x)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, expected, rtol=1e-2, atol=1e-2)  # float16 has three digits


def test_steps_before_the_network_are_taken_in_order():
    double, add = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, weight, bias in ((double, 2.0, 0.0), (add, 1.0, 1.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    assert ShippedNetwork(nn.Identity(), [double, add], torch.float32)(torch.ones(1, 1)).item() == 3


@pytest.mark.parametrize("clip_values", [(-2, 3), (np.zeros((1, 6, 6)), np.full((1, 6, 6), 255.0)), None])
def test_samples_lie_within_the_clip_values_and_are_always_the_same(clip_values):
    subject = shipment(folded(), clip_values=clip_values)  # the first of a process draws its weights
    before = torch.get_rng_state()
    (x,) = subject.samples(50)
    assert x.shape == (50, 1, 6, 6)
    assert x.dtype == torch.float32
    if clip_values is not None:
        low, high = (float(np.min(it)) for it in clip_values)
        assert low <= float(x.min()) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < float(x.max()) <= high
    torch.testing.assert_close(subject.samples(50)[0], x, rtol=0, atol=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("bounds", [np.array((-math.inf, math.inf)), (0, math.inf), (-math.inf, 0.5)])
def test_samples_are_finite_where_inputs_are_bounded_on_one_side_or_none(bounds):
    (x,) = shipment(folded(), clip_values=bounds).samples(50)
    assert x.isfinite().all()
    assert bounds[0] <= float(x.min()) < float(x.max()) <= bounds[1]


def test_a_dial_is_tried_at_every_trained_lam_and_halfway_between():
    _, lams = shipment(folded(), None).samples(11)
    halfway = [(low + high) / 2 for low, high in itertools.pairwise(LAMBDAS)]
    torch.testing.assert_close(lams, torch.tensor([*LAMBDAS, *halfway]))


def test_what_a_file_says_of_itself_can_be_read_as_json():
    about = shipment(folded(), facts={"preprocessing": "none"}, clip_values=(0, np.float32(1))).about("float16")
    assert about["precision"] == "float16"
    assert about["preprocessing"] == "none"
    assert json.loads(about["lam"]) == 0.3
    assert json.loads(about["clip_values"]) == [0, 1]
    assert json.loads(about["lambdas"]) == list(LAMBDAS)
    assert about["made_by"].startswith("art_oat ")
    assert shipment(folded(), None).about("float32")["lam"] == "input"
