import pytest
import torch
from torch import Tensor, nn

from art_oat import fold
from art_oat.condition import Condition, current_condition
from art_oat.layers import ConditionalLayer, ConvertedLayer, FiLM
from art_oat.surgery import register_conversion
from tests.networks import Residual, images, shaken


class UnitNorm(nn.Module):
    """Divides every sample by its length, and multiplies its channels: no affine map, in evaluation either."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        return x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * self.factors[..., None, None]


class ConditionalUnitNorm(ConditionalLayer):
    """Of one's own: the factors of the channels depend on lam."""

    def __init__(self, film: FiLM) -> None:
        super().__init__()
        self.film = film

    def factors(self, condition: Condition) -> Tensor:
        scale, _ = self.film.coefficients(condition.code)
        return scale

    def forward(self, x: Tensor) -> Tensor:
        return UnitNorm(self.factors(current_condition().of(len(x))))(x)

    def pin(self) -> nn.Module:
        return UnitNorm(torch.empty(0))

    def update(self, twin: nn.Module, condition: Condition, rows: Tensor) -> None:
        twin.factors = self.factors(condition)[rows]

    def fold(self, condition: Condition) -> nn.Module:
        return UnitNorm(self.factors(condition))


register_conversion(UnitNorm)(lambda norm, build: ConditionalUnitNorm(build.film(norm.factors.shape[1])))


class WithUnitNorm(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.body[4] = UnitNorm(torch.ones(1, 8))


@pytest.mark.parametrize("lam", [0.0, 0.15, 0.3, 1.0])
def test_a_layer_of_ones_own_that_is_no_affine_map_is_pinned_and_folded(lam):
    model, x = shaken(WithUnitNorm()), images()
    expected = model(x, lam)
    for network in (model.pinned(lam), fold(model, lam)):
        torch.testing.assert_close(network(x), expected)
        assert not any(isinstance(part, ConvertedLayer) for part in network.modules())


def test_its_twin_follows_its_weights_and_takes_one_lam_per_sample():
    model, x = shaken(WithUnitNorm()), images()
    lams = torch.linspace(0, 1, len(x), dtype=torch.float64)
    live = model.live_network()
    live.set_lam(lams)
    before = live(x)
    with torch.no_grad():
        model.network.body[4].film.output.weight.add_(1)
    torch.testing.assert_close(live(x), model(x, lams))
    assert not torch.allclose(live(x), before)
