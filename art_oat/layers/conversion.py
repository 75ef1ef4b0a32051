"""What makes conditional layers of ordinary ones: the builder of layers, and a registry by type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from art_oat.layers.base import ConvertedLayer
from art_oat.layers.batch_norm import BatchNormLayer, DualAffineBatchNorm, DualBatchNorm, SingleBatchNorm
from art_oat.layers.film import FILMS, FiLM, NarrowFiLM

STATISTICS: dict[str, type[BatchNormLayer]] = {
    "dual": DualBatchNorm,
    "shared": DualAffineBatchNorm,
    "single": SingleBatchNorm,
}
"""The conditional forms of a batch norm by name."""


@dataclass(frozen=True)
class LayerBuilder:
    """Builds the conditional layer of one norm.

    Args:
        film_name: The form of its FiLM.
        statistics: The form of a batch norm; ``"single"``: no norm has weights of its own for lam = 0.
        code_dim: Length of a code.
        has_film: Whether the norm gets a FiLM.
        like: Gives new tensors their dtype and device.
        whole: The FiLMs of the norm at full width, where this builds for a smaller one.
    """

    film_name: str
    statistics: str
    code_dim: int
    has_film: bool
    like: Tensor
    whole: Sequence[FiLM] | None = None
    _films: list[FiLM] = field(default_factory=list)

    def film(self, nb_channels: int) -> FiLM | None:
        """Return the FiLM for a number of channels; None where ``film_on`` leaves the norm out."""
        if not self.has_film:
            return None
        if self.whole is None:
            self._films.append(FILMS[self.film_name](self.code_dim, nb_channels).to(self.like))
        else:
            self._films.append(NarrowFiLM(self.whole[len(self._films)], nb_channels))
        return self._films[-1]

    def narrower(self) -> LayerBuilder:
        """Return a builder for a smaller width of the same norm: its layers share the FiLMs built so far."""
        return replace(self, whole=[*self._films], _films=[])

    def batch_norm(self, norm: _BatchNorm) -> BatchNormLayer:
        """Return the conditional form of a batch norm, which it takes over."""
        return STATISTICS[self.statistics](norm, self.film(norm.num_features))


Conversion = Callable[[nn.Module, LayerBuilder], ConvertedLayer]

_CONVERSIONS: dict[type[nn.Module], Conversion] = {}


def register_conversion(kind: type[nn.Module]) -> Callable[[Conversion], Conversion]:
    """Register how modules of a type, and of its subclasses, become conditional layers.

    The decorated function takes the module (a copy, free to keep) and a :class:`LayerBuilder`. It returns a
    :class:`~art_oat.layers.ConditionalLayer`, or raises ``ValueError`` to refuse the module, saying why. The closest
    registered base class of a module decides.

    Example:
        >>> @register_conversion(MyBatchNorm)                               # doctest: +SKIP
        ... def convert_my_batch_norm(norm, build):
        ...     return build.batch_norm(norm)
    """

    def register(conversion: Conversion) -> Conversion:
        _CONVERSIONS[kind] = conversion
        return conversion

    return register


def conversion_of(module: nn.Module) -> Conversion | None:
    """Return the conversion of the closest registered base class; None where there is none."""
    return next((_CONVERSIONS[kind] for kind in type(module).__mro__ if kind in _CONVERSIONS), None)


def refuse_computed(layer: nn.Module) -> None:
    """Refuse a layer whose weights are computed from others, as by pruning.

    Raises:
        ValueError: Saying so, and what to do.
    """
    if is_parametrized(layer) or "weight" not in layer._parameters:
        raise ValueError(
            "its weights are computed from others, so nothing can be folded into them: make pruning or a "
            "parametrization permanent first, as torch.nn.utils.prune.remove does"
        )


def refuse_inner_norms(norm: nn.Module) -> None:
    """Refuse a norm that holds another one.

    Raises:
        ValueError: Saying so.
    """
    if any(conversion_of(part) is not None for part in norm.modules() if part is not norm):
        raise ValueError(
            "it holds another norm, which could not be converted with it: register_conversion for its type"
        )
