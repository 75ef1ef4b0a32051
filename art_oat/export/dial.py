"""The whole dial as one ordinary network, with lam as a second input: what exporters take."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_oat.condition import Condition
from art_oat.contexts import exact_arithmetic
from art_oat.export.dialed import Curve, Dial, DialedAffine, DialNetwork
from art_oat.layers import ConditionalLayer, NormLayer
from art_oat.layers.channel_affine import ChannelAffine
from art_oat.layers.filmed import Modulation
from art_oat.layers.sample_norm import ToldNorm
from art_oat.layers.slimmable import at_width
from art_oat.model import OATModel
from art_oat.network_kinds import check_model
from art_oat.surgery.errors import refuse_layers
from art_oat.surgery.fold import tied_clones

_BETWEEN = (0.3, 0.7)
"""Where between two knots it is tried whether a layer is linear there."""
_ROUNDINGS = 1000
"""How many roundings of the largest scale or shift a layer may be off the straight line."""


def dial_network(model: OATModel, width: float | None = None) -> DialNetwork:
    """Return an independent, ordinary network that answers at every lam, one per sample, in evaluation mode.

    It takes ``x [N, ...]`` and ``lam [N]``, and answers as ``model(x, lam, width)`` does. Its weights are those of the
    plain network. Every norm reads its scale and shift from a table at the trained lams, interpolated in between. No
    branch depends on values, so ``torch.export``, ``torch.onnx.export`` and ``torch.jit.trace`` take it. It no longer
    follows the model.

    Args:
        model: The conditional network; it is left untouched.
        width: One of its widths; None for the default.

    Raises:
        TypeError: If ``model`` is not an ``OATModel``.
        UnsupportedModuleError: If scale and shift of a layer are not known to be linear between trained lams; names all
            such layers.
        ValueError: If ``width`` was not trained, or only one lam was.

    Example:
        >>> import torch
        >>> from art_oat import to_conditional
        >>> model = to_conditional(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
        >>> network = dial_network(model)
        >>> program = torch.export.export(network, (torch.rand(2, 1, 8, 8), torch.tensor([0.0, 0.25])))
    """
    check_model(model)
    width = model.point(None, width).width
    knots = [*model.lambdas, *[model.farthest] * (model.farthest > model.lambdas[-1])]
    if len(knots) == 1:
        raise ValueError(f"a dial needs two trained lams, got {model.lambdas}. Fold the one there is: fold(model).")
    with exact_arithmetic(model.encoding.table.device):
        builder = _Builder(model, knots, width)
        network = at_width(model.network, width, builder.substitute, tied_clones())
        refuse_layers("dial", builder.faults, model.network, "Ship single points: fold(model, lam=..., width=...).")
        return DialNetwork(network, builder.dial()).eval()


class _Told(NamedTuple):
    """What a twin was told for some lams: the norm before, if any, and scale and shift, each ``[G, *S]``."""

    norm: nn.Module | None
    coefficients: tuple[Tensor, Tensor]
    is_trailing: bool


def _told(layer: ConditionalLayer, condition: Condition) -> _Told | None:
    """Ask a layer for scale and shift at several lams, as a live network does; None if its twin has no such."""
    twin = layer.pin()
    if not isinstance(twin, ChannelAffine | ToldNorm):
        return None
    layer.update(twin, condition, torch.arange(len(condition.lam), device=condition.lam.device))
    if isinstance(twin, ChannelAffine):
        return _Told(None, twin.coefficients, twin.is_trailing)
    norm, coefficients, _ = twin.told
    return None if coefficients is None else _Told(norm, coefficients, twin.is_trailing)


class _Builder:
    """Makes the layers of a dialed network, and gathers their tables.

    Args:
        model: The conditional network.
        knots: Lams that tables are for.
        width: One of the widths.

    Attributes:
        faults: Why layers cannot be dialed, by dotted path.
    """

    def __init__(self, model: OATModel, knots: Sequence[float], width: float) -> None:
        self.knots = model.encoding.table.new_tensor(knots)
        self.at_knots = model.condition(self.knots, width)
        between = [self.knots[:-1].lerp(self.knots[1:], share) for share in _BETWEEN]
        self.between = model.condition(torch.cat(between), width)
        self.paths = {part: path for path, part in model.network.named_modules()}
        self.tables: list[tuple[Tensor, Tensor]] = []
        self.curves: dict[int, Curve] = {}
        self.faults: dict[str, str] = {}

    def substitute(self, layer: nn.Module) -> nn.Module | None:
        """Return what takes the place of a conditional layer; None for another one."""
        if not isinstance(layer, ConditionalLayer):
            return None
        number, told, curve = len(self.tables), _told(layer, self.at_knots), self._curve(layer)
        if told is None:
            self.faults[self.paths.get(layer, "")] = "what it is at one lam is not known to be a scale and a shift"
            return nn.Identity()
        if curve is not None:
            self.curves[number] = curve
        elif not self._is_linear(layer, told):
            self.faults[self.paths.get(layer, "")] = "it is not linear between trained lams"
        scale, shift = told.coefficients
        self.tables.append((scale.flatten(1), shift.flatten(1)))
        norm, layout = copy.deepcopy(told.norm), self.at_knots.layout
        return DialedAffine(number, norm, scale.shape[1:], is_trailing=told.is_trailing, layout=layout)

    def _curve(self, layer: ConditionalLayer) -> Curve | None:
        if not isinstance(layer, NormLayer | Modulation) or layer.film is None or layer.film.is_linear:
            return None
        film = copy.deepcopy(layer.film)
        if isinstance(layer, NormLayer):
            scale, shift = (values[-1:].clone() for values in layer.normalization(self.at_knots))
            return Curve(film, scale, shift, has_shift=getattr(layer, "has_bias", True))
        scale = torch.ones_like(layer.affine(self.at_knots)[0][-1:])
        return Curve(film, scale, torch.zeros_like(scale), has_shift=layer.has_shift)

    def _is_linear(self, layer: ConditionalLayer, told: _Told) -> bool:
        found = _told(layer, self.between)
        assert found is not None
        return all(
            torch.allclose(
                torch.cat([table[:-1].lerp(table[1:], share) for share in _BETWEEN]),
                values,
                rtol=0,
                atol=_ROUNDINGS * torch.finfo(table.dtype).eps * float(table.abs().max()),
            )
            for table, values in zip(told.coefficients, found.coefficients, strict=True)
        )

    def dial(self) -> Dial:
        """Return what computes scale and shift of every layer."""
        slope = self.at_knots.slope
        return Dial(self.knots, self.tables, self.curves, self.at_knots.code, 0.0 if slope is None else slope.end)
