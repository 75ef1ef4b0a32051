import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import fold, to_conditional
from art_oat.condition import Condition, conditioned
from art_oat.layers import FilmedLayer, LinearFiLM
from art_oat.surgery import UnsupportedModuleError

LAM = torch.tensor([0.0, 1.0, 0.0])
CODE = torch.eye(2)[[0, 1, 0]]


class Standardized(nn.Conv2d):
    """Scales what it gives by a gain, and not by its weight, as networks without norms do (arXiv:2102.06171)."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, self.gain * weight / weight.std((1, 2, 3), keepdim=True), self.bias)


LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (3, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 3), (3, 5, 4)),
    "linear without bias": (lambda: nn.Linear(3, 3, bias=False), (3, 3)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, stride=2, dilation=2), (3, 2, 9, 9)),
    "grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False), (3, 4, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 3, 2), (3, 3, 4, 4)),
    "standardized": (lambda: Standardized(3, 3, 3), (3, 3, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_are_scaled_and_shifted_by_lam_and_folded_weights_give_the_same(kind):
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    plain = layer(x)
    filmed = FilmedLayer(layer, LinearFiLM(2, plain.shape[2 if kind == "linear on tokens" else 1]).double())
    nn.init.normal_(filmed.modulation.film.output.weight)
    with conditioned(Condition(LAM.double(), CODE.double())):
        answer = filmed(x)
    scale, shift = filmed.modulation.film.coefficients(CODE.double())
    shift = shift * (layer.bias is not None)
    axes = (3, 1, -1) if kind == "linear on tokens" else (3, -1, *[1] * (plain.dim() - 2))
    torch.testing.assert_close(answer, plain * scale.view(axes) + shift.view(axes), rtol=0, atol=1e-12)
    for row in range(2):
        folded = filmed.fold(Condition(LAM[row : row + 1].double(), CODE[row : row + 1].double()))
        assert type(folded) is type(layer)
        assert folded.state_dict().keys() == layer.state_dict().keys()
        torch.testing.assert_close(folded(x)[row], answer[row], rtol=0, atol=1e-12)


class NormFree(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Standardized(1, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 1, bias=False))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(F.relu(self.block(F.relu(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("film_on", "paths"),
    [
        (["conv", "block"], ["conv", "block.0", "block.2"]),
        (["head"], ["head"]),
        (lambda path, layer: isinstance(layer, nn.Conv2d), ["conv", "block.0", "block.2"]),
    ],
)
def test_a_network_without_norms_is_conditional_after_chosen_layers_and_exact_in_every_form(film_on, paths):
    torch.manual_seed(0)
    network, x = NormFree().double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    model = to_conditional(network, (0, 0.3, 1), film_on=film_on, input_shape=(1, 8, 8)).eval()
    assert [path for path, part in model.network.named_modules() if isinstance(part, FilmedLayer)] == paths
    torch.testing.assert_close(model(x, 0.3), network(x), rtol=0, atol=1e-12)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    lams = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    mixed = model(x, lams)
    live = model.live_network()
    live.set_lam(lams)
    torch.testing.assert_close(live(x), mixed, rtol=0, atol=1e-12)
    for row, lam in enumerate(lams.tolist()):
        folded = fold(model, lam)
        network.load_state_dict(folded.state_dict())
        for plain in (model.pinned(lam), folded, network):
            torch.testing.assert_close(plain(x)[row], mixed[row], rtol=0, atol=1e-12)


def test_a_layer_named_beside_norms_gets_a_film_too():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    model = to_conditional(network, film_on=["1", "3"])
    assert isinstance(model.network[3], FilmedLayer)
    assert model.network[1].film is not None
    again = to_conditional(network, **model.conversion)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_what_cannot_get_a_film_is_refused_by_path():
    network = NormFree()
    with pytest.raises(UnsupportedModuleError, match=r"holds no norm to convert.* in film_on.* register_conversion"):
        to_conditional(network)
    with pytest.raises(UnsupportedModuleError, match=r"block\.0 \(Conv2d\): FiLM after a layer that is no norm needs"):
        to_conditional(network, film_on=["block.0"], widths=(0.5, 1), input_shape=(1, 8, 8))
    network.block[0] = nn.utils.parametrizations.weight_norm(network.block[0])
    with pytest.raises(UnsupportedModuleError, match=r"block\.0 .*computed from others.* out of film_on\.$"):
        to_conditional(network, film_on=["block"])
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    network[1].weight = network[0].weight
    with pytest.raises(UnsupportedModuleError, match=r"in common with .*0\.weight and 1\.weight"):
        to_conditional(network, film_on=["0"])
