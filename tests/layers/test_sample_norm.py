import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import fold, to_conditional
from art_oat.condition import Condition, conditioned
from art_oat.layers import LinearFiLM, SampleNorm
from art_oat.surgery.builder import STATISTICS

LAM = torch.tensor([0.0, 0.3, 1.0, 0.3], dtype=torch.float64)
CODE = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1]]
LIKE = torch.empty(0, dtype=torch.float64)
KINDS = {
    "layer": (lambda: nn.LayerNorm(3), (4, 5, 3), True),
    "layer of a map": (lambda: nn.LayerNorm([3, 2]), (4, 5, 3, 2), True),
    "layer without bias": (lambda: nn.LayerNorm(3, bias=False), (4, 3), True),
    "layer without weights": (lambda: nn.LayerNorm(3, elementwise_affine=False), (4, 5, 3), True),
    "RMS": (lambda: nn.RMSNorm(3), (4, 5, 3), True),
    "RMS without weights": (lambda: nn.RMSNorm(3, elementwise_affine=False), (4, 5, 3), True),
    "group": (lambda: nn.GroupNorm(2, 4), (4, 4, 3, 2), False),
    "group without weights": (lambda: nn.GroupNorm(2, 4, affine=False), (4, 4, 3, 2), False),
    "instance": (lambda: nn.InstanceNorm2d(3, affine=True), (4, 3, 4, 2), False),
    "instance without weights": (lambda: nn.InstanceNorm1d(3), (4, 3, 4), False),
}


def layer_and_norm(kind, *, is_dual=True):
    make, shape, is_trailing = KINDS[kind]
    torch.manual_seed(0)
    norm = make().double()
    film = LinearFiLM(3, SampleNorm(make(), None, LIKE, is_trailing=is_trailing).nb_channels).double()
    layer = SampleNorm(copy.deepcopy(norm), film, LIKE, is_trailing=is_trailing, is_dual=is_dual)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    return layer, norm, torch.randn(shape, dtype=torch.float64)


def run(layer, x, lam=LAM, code=CODE):
    with conditioned(Condition(lam, code)):
        return layer(x)


def by_hand(layer, norm, x, row):
    """The norm without weights, then those of the side of a lam, then FiLM, for one sample."""
    side = layer.clean if LAM[row] == 0 or layer.adversarial is None else layer.adversarial
    scale, shift = (value.view(layer.shape) for value in layer.film.coefficients(CODE[row : row + 1]))
    bias = torch.zeros_like(side.weight) if side.bias is None else side.bias
    shift = shift * bool(side.bias is not None)
    weight, bias = side.weight * scale, bias * scale + shift
    bare = copy.deepcopy(norm)
    if bare.weight is not None:
        nn.init.ones_(bare.weight)
    if getattr(bare, "bias", None) is not None:
        nn.init.zeros_(bare.bias)
    if not layer.is_trailing:
        weight, bias = (value.view(-1, *[1] * (x.dim() - 2)) for value in (weight, bias))
    return bare(x[row : row + 1]) * weight + bias


@pytest.mark.parametrize("is_dual", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_normalized_alone_and_then_modulated_by_its_lam(kind, is_dual):
    layer, norm, x = layer_and_norm(kind, is_dual=is_dual)
    expected = torch.cat([by_hand(layer, norm, x, row) for row in range(len(x))])
    torch.testing.assert_close(run(layer, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_and_the_folded_norm_answer_as_the_layer_does(kind):
    layer, norm, x = layer_and_norm(kind)
    expected = run(layer, x)
    twin = layer.pin()
    lams, rows = LAM.unique(return_inverse=True)
    layer.update(twin, Condition(lams, torch.eye(3, dtype=torch.float64)), rows)
    torch.testing.assert_close(twin(x), expected, rtol=0, atol=1e-12)
    for row in range(len(x)):
        condition = Condition(LAM[row : row + 1], CODE[row : row + 1])
        layer.update(twin, condition, torch.zeros(1, dtype=torch.long))
        folded = layer.fold(condition)
        assert type(folded) is type(norm)
        assert folded.state_dict().keys() <= {"weight", "bias"}
        for answer in (twin(x), folded(x)):
            torch.testing.assert_close(answer[row], expected[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "without" not in kind])
def test_what_a_folded_norm_holds_loads_into_a_new_one(kind):
    layer, norm, x = layer_and_norm(kind)
    condition = Condition(LAM[1:2], CODE[1:2])
    norm.load_state_dict(layer.fold(condition).state_dict())
    torch.testing.assert_close(norm(x), run(layer, x, *((condition.lam, condition.code))))


def test_a_folded_weight_is_as_trainable_as_that_of_its_side_was():
    layer, *_ = layer_and_norm("layer")
    layer.adversarial.weight.requires_grad_(requires_grad=False)
    clean, adversarial = (layer.fold(Condition(LAM[row : row + 1], CODE[row : row + 1])) for row in (0, 1))
    assert clean.weight.requires_grad
    assert (adversarial.weight.requires_grad, adversarial.bias.requires_grad) == (False, True)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("kind", ["layer", "group", "RMS"])
def test_gradients_are_those_of_the_formula_though_the_normalized_features_are_not_kept(kind, monkeypatch):
    layer, norm, x = layer_and_norm(kind)
    x.requires_grad_()
    wanted = (x, *(parameter for parameter in layer.parameters() if parameter.requires_grad))
    expected = torch.cat([by_hand(layer, norm, x, row) for row in range(len(x))]).square().sum()
    expected = torch.autograd.grad(expected, wanted, allow_unused=True)
    answer = run(layer, x).square().sum()
    for got, want in zip(torch.autograd.grad(answer, wanted, allow_unused=True), expected, strict=True):
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    given = []
    layer.norm.register_forward_hook(lambda _, __, output: given.append(weakref.ref(output)))
    answer = run(layer, x)
    gc.collect()
    assert given[0]() is None
    assert answer.requires_grad


def test_second_derivatives_are_right():
    layer, _, x = layer_and_norm("layer")
    assert torch.autograd.gradgradcheck(lambda x: run(layer, x).tanh(), (x.requires_grad_(),))


def test_statistics_of_an_instance_norm_take_in_a_batch_once():
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    layer = SampleNorm(copy.deepcopy(norm), LinearFiLM(3, 3), torch.empty(0), is_trailing=False)
    x = torch.randn(4, 3, 5, requires_grad=True)
    run(layer, x, LAM.float(), CODE.float()).sum().backward()
    norm(x)
    torch.testing.assert_close(layer.norm.running_mean, norm.running_mean)
    with torch.no_grad():
        torch.testing.assert_close(run(layer.eval(), x, LAM.float(), CODE.float()), norm.eval()(x))


def test_reset_layers_are_the_norm_as_it_is_made():
    layer, norm, x = layer_and_norm("layer")
    layer.reset_parameters()
    torch.testing.assert_close(run(layer, x), norm(x))


class Tokens(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(1, 6, 2, 2), norm, nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + F.gelu(self.norm(tokens))).mean(1))


def encoder():
    """A layer of torch, which reads the weights of its norms without calling them where it may."""
    return nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(6), lambda: nn.RMSNorm(6), encoder])
def test_a_network_of_tokens_is_the_same_before_training_and_exact_in_every_form_after(norm, statistics):
    torch.manual_seed(0)
    network = Tokens(norm()).double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    model = to_conditional(network, (0, 0.3, 1), statistics=statistics, input_shape=(1, 8, 8)).eval()
    torch.testing.assert_close(model(x, 0.3), network(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.requires_grad_(requires_grad=False)
    lams = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    mixed = model(x, lams)
    assert not torch.allclose(model(x, 0.0), model(x, 1.0))
    for row, lam in enumerate(lams.tolist()):
        for plain in (model.pinned(lam), fold(model, lam)):
            torch.testing.assert_close(plain(x)[row], mixed[row], rtol=0, atol=1e-12)
    live = model.live_network()
    live.set_lam(lams)
    torch.testing.assert_close(live(x), mixed, rtol=0, atol=1e-12)
