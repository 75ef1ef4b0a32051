"""The mixture of two points of one network: the accurate one, and the robust one made confident where it is sure.

``log((1 - alpha) softmax(g(x)) + alpha softmax(M(h(x))))`` (Bai et al. 2024, MixedNUTS, arXiv:2402.02263), with ``g``
the network at lam 0 and ``h`` the same weights at lam 1: nothing is trained. ``M`` works on the scores of the robust
one, as the paper's does.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import OATClassifier


@dataclass(frozen=True)
class Amplified:
    """The transformation ``M(z) = scale sign(u) |u| ** power`` with ``u = GELU(LN(z) + shift)``.

    ``LN`` brings the scores of each sample to mean 0 and variance 1. With a power above 1, a large margin grows more
    than a small one: a robust network is more confident where it is right. ``GELU`` flattens the lowest scores.

    Attributes:
        scale: Above 0.
        power: At least 1, so that gradients stay finite.
        shift: What is added before the clamp.
    """

    scale: float = 1.0
    power: float = 1.0
    shift: float = 0.0

    def __call__(self, scores: Tensor) -> Tensor:
        """Return transformed scores, ``[N, K]``."""
        clamped = F.gelu(F.layer_norm(scores, scores.shape[-1:]) + self.shift)
        return self.scale * clamped.sign() * clamped.abs() ** self.power


class Mixed(nn.Module):
    """``log((1 - alpha) softmax(g(x)) + alpha softmax(M(h(x))))``; attacks may take its answers as scores.

    All is computed in logarithms, so that gradients do not vanish where a probability does.

    Args:
        accurate: ``g``, giving scores ``[N, K]``.
        robust: ``h``, likewise.
        alpha: Weight of the robust one, in ``(0, 1)``.
        transform: ``M``; None to leave the scores as they are.
    """

    def __init__(
        self, accurate: nn.Module, robust: nn.Module, alpha: float, transform: Amplified | None = None
    ) -> None:
        super().__init__()
        self.accurate, self.robust = accurate, robust
        self.alpha, self.transform = alpha, transform
        self.training = False

    @classmethod
    def of(cls, classifier: OATClassifier, alpha: float, transform: Amplified | None = None) -> Self:
        """Mix the points of lam 0 and of the largest trained lam of one network."""
        ends = (classifier.at(lam).as_module() for lam in (0.0, classifier.model.lambdas[-1]))
        return cls(*ends, alpha, transform)

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of probabilities, ``[N, K]``, for inputs ``[N, ...]``."""
        return mixed(self.accurate(x), self.robust(x), self.alpha, self.transform)


def mixed(accurate: Tensor, robust: Tensor, alpha: float, transform: Amplified | None = None) -> Tensor:
    """Mix scores ``[..., K]`` of the two; see :class:`Mixed`."""
    amplified = robust if transform is None else transform(robust)
    logs = accurate.log_softmax(dim=-1), amplified.log_softmax(dim=-1)
    return torch.logaddexp(logs[0] + math.log(1 - alpha), logs[1] + math.log(alpha))
