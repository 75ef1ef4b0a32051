import copy
import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from art_oat import OATModel, OperatingPoint, fold, to_conditional
from art_oat.layers import ConvertedLayer, Slimmable, Switch
from tests.edge_case_networks import TiedConvolutions
from tests.networks import NETWORKS, TRAINED_AND_UNSEEN, WIDTHS, Residual, images, shaken
from tests.pairs import parametrize_in_pairs

POINT = OperatingPoint(0.3)


@parametrize_in_pairs(make=NETWORKS, lam=TRAINED_AND_UNSEEN, film=["linear", "two-layer", "published"])
def test_a_folded_network_gives_the_scores_of_the_conditional_one(make, lam, film):
    model = shaken(make(), film=film)
    torch.testing.assert_close(fold(model, OperatingPoint(lam))(images()), model(images(), lam=lam))


@pytest.mark.parametrize("make", NETWORKS)
def test_a_folded_network_is_of_the_original_class_and_its_state_loads_into_a_fresh_one(make):
    folded, fresh = fold(shaken(make()), POINT), make().double().eval()
    assert type(folded) is type(fresh)
    assert [type(part) for part in folded.modules()] == [type(part) for part in fresh.modules()]
    fresh.load_state_dict(folded.state_dict(), strict=True)
    assert torch.equal(fresh(images()), folded(images()))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_folded_network_of_any_width_stands_alone(width):
    model, point = shaken(Residual(), widths=WIDTHS), OperatingPoint(0.3, width)
    folded, expected = fold(model, point), fold(model, point)(images())
    storages = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for tensor in (*folded.parameters(), *folded.buffers()):
        assert tensor.untyped_storage().data_ptr() not in storages
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # it holds no more than its slice
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(folded(images()), expected)
    model.load_state_dict(state)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_a_point_may_be_named_by_its_lam_or_be_the_default_one(model):
    expected = fold(model, POINT)(images())
    assert torch.equal(fold(model, 0.3)(images()), expected)
    model.default_point = POINT
    assert torch.equal(fold(model)(images()), expected)


@pytest.mark.parametrize("make", [fold, OATModel.pinned])
@pytest.mark.parametrize("dials", [{}, {"lam": 0.3}, {"width": 0.5}, {"lam": 0.3, "width": 0.5}])
def test_lam_and_width_name_a_point_and_what_is_left_out_is_the_default(make, dials):
    model, x = shaken(Residual(), widths=WIDTHS), images()
    model.default_point = OperatingPoint(0.1, 0.75)
    point = OperatingPoint(dials.get("lam", 0.1), dials.get("width", 0.75))
    assert torch.equal(make(model, **dials)(x), make(model, point)(x))


@pytest.mark.parametrize("make", [fold, OATModel.pinned])
@pytest.mark.parametrize("point", [0.3, OperatingPoint(0.3)])
@pytest.mark.parametrize("dials", [{"lam": 0.3}, {"width": 1.0}])
def test_a_point_beside_lam_or_width_is_refused(model, make, point, dials):
    with pytest.raises(ValueError, match=r"give a point, or lam and width, got point=.*alone"):
        make(model, point, **dials)


@pytest.mark.slow(seconds=1)
def test_a_folded_network_exports_to_onnx():
    model, x, file = shaken(Residual(), torch.float32), images(dtype=torch.float32), io.BytesIO()
    program = torch.onnx.export(fold(model, POINT), (x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = model(x, *POINT).detach().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)  # another runtime's float32 kernels


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_folded_network_of_any_width_can_be_trained_on_exported_and_copied(heads, width):
    folded = fold(shaken(Residual(), widths=WIDTHS, heads=heads), OperatingPoint(0.3, width))
    assert not any(isinstance(part, ConvertedLayer | Slimmable | Switch) for part in folded.modules())
    folded.train()(images()).sum().backward()
    assert all(isinstance(parameter, nn.Parameter) for parameter in folded.parameters())
    assert all(parameter.grad is not None and parameter.is_leaf for parameter in folded.parameters())
    twin = copy.deepcopy(folded).eval()
    program = torch.export.export(twin, (images(),)).module()
    torch.testing.assert_close(program(images()), twin(images()))


def test_a_weight_tied_to_that_of_a_layer_which_is_not_cut_stays_tied_at_full_width():
    network = TiedConvolutions()
    network.spare = nn.Conv2d(6, 6, 3, bias=False)  # no pass reaches it
    network.spare.weight = network.conv2.weight
    model = to_conditional(network, widths=(0.5, 1.0), full_width=["spare"])
    full, half = (fold(model, OperatingPoint(0.3, width)) for width in (1.0, 0.5))
    assert full.spare.weight is full.conv2.weight is full.conv3.weight
    assert half.conv2.weight is half.conv3.weight
    assert torch.equal(half.spare.weight[:3, :3], half.conv2.weight)
