"""What residual branches of ConvNeXt and ViT share: the layers that mix channels, and stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Sequential):
    """``dropout(linear2(gelu(linear1(x))))`` on the last axis, with four times as many channels in between.

    Args:
        channels: Of the input and the output.
        dropout: Probability of dropping a value in training, in ``[0, 1)``.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        inner = 4 * channels
        super().__init__(nn.Linear(channels, inner), nn.GELU(), nn.Linear(inner, channels), nn.Dropout(dropout))


class DropPath(nn.Module):
    """Leave a residual branch out, for each sample with a probability, in training (arXiv:1603.09382).

    ``x * kept / (1 - probability)`` with ``kept`` drawn once for every sample, so that the mean over draws is ``x``.

    Args:
        probability: Of leaving it out, in ``[0, 1)``; nothing is drawn at 0.

    Raises:
        ValueError: If ``probability`` is not as above.
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"probability must lie in [0, 1), got {probability}.")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, ...]`` for ``[N, ...]``; ``x`` itself in evaluation mode."""
        if not self.training or self.probability == 0:
            return x
        share = 1 - self.probability
        kept = x.new_empty([x.shape[0]] + [1] * (x.ndim - 1)).bernoulli_(share)
        return x * kept / share

    def extra_repr(self) -> str:
        """Say the probability."""
        return f"probability={self.probability:g}"


def drop_paths(largest: float, nb_blocks: int) -> list[float]:
    """Return the probabilities of blocks in their order: evenly from 0 for the first to the largest for the last."""
    return [largest * index / max(1, nb_blocks - 1) for index in range(nb_blocks)]
