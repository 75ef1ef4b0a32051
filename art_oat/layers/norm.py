"""What conditional norms share: weights for lam = 0 and for lam > 0, a FiLM, and the way from one to the other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from art_oat.condition import Condition
from art_oat.layers.base import ConditionalLayer
from art_oat.layers.film import FiLM


class Affine(nn.Module):
    """Weight and bias of one side of a norm, of any shape.

    Args:
        weight: As the norm has it; None for ones.
        bias: Likewise; None for zeros.
        like: Gives shape, dtype and device of what is made anew.
        has_bias: Whether there is a bias at all.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor | None, bias: Tensor | None, like: Tensor, *, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones_like(like)) if weight is None else weight
        self.bias = (nn.Parameter(torch.zeros_like(like)) if bias is None else bias) if has_bias else None

    def reset_parameters(self) -> None:
        """Go back to the identity."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class NormLayer(ConditionalLayer):
    """A conditional norm: one side for lam = 0, another for lam > 0, and a FiLM after both.

    The side is chosen by **lam**, not by whether the input is attacked. Between lam = 0 and the smallest trained lam
    above it, the layer in evaluation is the blend of those at both.

    Attributes:
        film: The modulation, or None.
        nb_channels: How many numbers a scale of the layer has.
    """

    film: FiLM | None
    nb_channels: int

    @abstractmethod
    def normalization(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, C]``, of the layer without FiLM in evaluation."""

    def reset_parameters(self) -> None:
        """Reset weights and statistics of all parts."""
        for part in self.children():
            part.reset_parameters()  # type: ignore[operator]

    def tied_parts(self) -> tuple[nn.Module, ...]:
        """Return the parts that hold weights and statistics of the original norm, in a fixed order."""
        return tuple(part for part in self.children() if part is not self.film)

    def merge(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Merge norm and FiLM: ``scale, shift`` with ``y = scale * x + shift``, each ``[G, C]``."""
        return self._modulated(self.normalization(condition), condition)

    def _modulated(self, affine: tuple[Tensor, Tensor], condition: Condition) -> tuple[Tensor, Tensor]:
        if self.film is None:
            return affine
        (scale, shift), (film_scale, film_shift) = affine, self.film.coefficients(condition.code)
        return scale * film_scale, shift * film_scale + film_shift

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return what :meth:`merge` does, but blended between lam = 0 and the smallest trained lam above it.

        A lam in between belongs to neither side: its scale and shift lie on the straight line between those at both.
        """
        merged = self.merge(condition)
        if not condition.is_on_slope:
            return merged
        low, high = (self.merge(end) for end in condition.ends_of_slope)
        climb = condition.climb.unsqueeze(1).to(merged[0])
        scale, shift = (
            torch.where(climb < 1, torch.lerp(start, end, climb), beyond)
            for start, end, beyond in zip(low, high, merged, strict=True)
        )
        return scale, shift


def of_side(condition: Condition, clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return for each lam the values of its side, ``[G, C]``, of those of both sides, each ``[C]``."""
    return torch.where(condition.is_clean.unsqueeze(1), clean, adversarial)


def side_of(condition: Condition, clean: Affine, adversarial: Affine | None) -> Affine:
    """Return the side that the one lam of a condition belongs to; the one there is, without another."""
    return clean if condition.nb_clean or adversarial is None else adversarial


def affine_of_side(condition: Condition, clean: Affine, adversarial: Affine | None) -> tuple[Tensor, Tensor]:
    """Return for each lam the weight and the bias of its side, flat, each ``[G, C]``; without another side, of the one.

    A side without bias has zeros.
    """

    def flat(side: Affine) -> tuple[Tensor, Tensor]:
        weight = side.weight.flatten()
        return weight, torch.zeros_like(weight) if side.bias is None else side.bias.flatten()

    if adversarial is None:
        weight, bias = (values.expand(len(condition.lam), -1) for values in flat(clean))
    else:
        sides = zip(flat(clean), flat(adversarial), strict=True)
        weight, bias = (of_side(condition, *side) for side in sides)
    return weight, bias
