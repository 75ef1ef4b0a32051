"""Statistics of norms in training: warnings where they come from too few values, or do not suit the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from art_oat.checks import warn_caller
from art_oat.condition import OperatingPoint
from art_oat.layers.batch_norm import observed_norms
from art_oat.model import OATModel

_FEWEST_VALUES = 8
_FARTHEST_SCORES = 100.0
_NB_SETTLING_STEPS = 50  # running statistics with torch's momentum of 0.1 have then forgotten where they began
_REMEDY = (
    "Take larger batches, fewer lambdas, a smaller learning rate, or to_conditional(..., statistics='shared'); "
    "recalibrate(model, loader) computes the statistics anew."
)


class StatisticsWarning(UserWarning):
    """Norms learn their statistics from so few values that the network may answer otherwise than it was trained to."""


class StatisticsWatch:
    """Warns at most once of few values, and of scores in evaluation that training does not know."""

    def __init__(self, model: OATModel) -> None:
        self.model = model
        self._has_seen_batch = False
        self._has_warned_of_scores = False

    def watching(self) -> AbstractContextManager[dict[str, int] | None]:
        """Note within the block from how few values norms compute their statistics; None where that is known."""
        return nullcontext() if self._has_seen_batch else statistics_watched(self.model)

    def look_at(self, counts: Mapping[str, int] | None, nb_samples: int) -> None:
        """Take what was noted of a batch of so many samples that went well."""
        if counts is not None:
            self._has_seen_batch = True
            _warn_of_few_values(counts, nb_samples, self.model)

    def compare(self, scores: Mapping[OperatingPoint, float], in_training: float, nb_steps: int, epoch: int) -> None:
        """Compare the largest scores by running statistics with the largest that the last training step saw."""
        point = max(scores, key=lambda point: scores[point])
        is_settled = nb_steps >= _NB_SETTLING_STEPS and not self._has_warned_of_scores
        if not is_settled or scores[point] <= _FARTHEST_SCORES * max(in_training, 1.0):
            return
        self._has_warned_of_scores = True
        warn_caller(
            f"in evaluation at lam {point.lam:g}, width {point.width:g}, scores reach {scores[point]:.3g}, in training "
            f"{in_training:.3g} (epoch {epoch}): the running statistics of its norms do not suit. {_REMEDY}",
            StatisticsWarning,
        )


@contextmanager
def statistics_watched(model: OATModel) -> Iterator[dict[str, int]]:
    """Within the block, note by path from how few values per channel each norm in training computes its statistics."""
    counts: dict[str, int] = {}

    def note(path: str, norm: nn.Module, x: Tensor) -> None:
        if norm.training:
            nb_values = x.numel() // x.shape[1]
            counts[path] = min(nb_values, counts.get(path, nb_values))

    with observed_norms(model.network, note):
        yield counts


def _warn_of_few_values(counts: Mapping[str, int], nb_samples: int, model: OATModel) -> None:
    if not counts or min(counts.values()) >= _FEWEST_VALUES:
        return
    path = min(counts, key=lambda path: counts[path])
    warn_caller(
        f"a batch of {nb_samples} is small for {len(model.lambdas)} lams: {path} computes its statistics from "
        f"{counts[path]} values per channel, and {sum(count < _FEWEST_VALUES for count in counts.values())} norms from "
        f"fewer than {_FEWEST_VALUES}. Training may explode. {_REMEDY}",
        StatisticsWarning,
    )
