"""How flat the robust loss is around the weights, at every operating point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from tqdm.auto import tqdm

from art_oat.attacks import PGD, Norm, ball_faults, check_radii, format_eps
from art_oat.checks import Array, as_array, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.displacement import Displacements, RobustLoss, movable
from art_oat.evaluation.evaluate import checked_points
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, ThreatModel, options_faults
from art_oat.evaluation.point_flatness import PointFlatness, flatness_at
from art_oat.storage import write_rows
from art_oat.surgery import fold
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNUSED = ("state", "nb_workers", "uses_group", "carries_examples", "nb_robust", "latency_batch_size")


@dataclass(frozen=True, eq=False)
class Flatness(Tabular):
    """Flatness of the robust loss around the weights of every operating point; the smaller the figures, the flatter.

    With the robust loss ``L(w)``, the mean cross-entropy on adversarial examples that are made anew at ``w``::

        average(xi) = E_nu L(w + nu) - L(w)                 nu uniform in the balls  |nu_l| <= xi |w_l|
        worst(xi)   = max_nu L(w + nu) - L(w)               over the same balls

    as Stutz, Hein, Schiele 2021 define them (arXiv:2104.04448, equations 3 and 5), but that one displacement serves all
    samples, where they take one for every batch: so the figures do not depend on the size of batches. The landscape is
    ``L(w + distance * d)`` along filter-normalized directions ``d`` (Li et al. 2018, arXiv:1712.09913), with
    adversarial examples made anew, as Wu et al. 2020 draw it (arXiv:2004.05884).

    All of it is of the folded network of the point, an ordinary one with weights of its own: the classifier is not
    touched. Parameters and statistics of its norms, and FiLM in them, stay as they are (see :class:`Displacements`).

    Attributes:
        points: What was found, by width and lam, ascending.
        eps: Radius of the adversarial examples, in units of ``x``.
        norm: Its norm.
        displacements: How weights were moved.
        nb_samples: How many samples all losses are means over.
    """

    points: tuple[PointFlatness, ...]
    eps: float
    norm: Norm
    displacements: Displacements
    nb_samples: int

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps: float | ThreatModel,
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        displacements: Displacements | None = None,
        options: EvaluationOptions = DEFAULTS,
    ) -> Self:
        """Move the weights of every operating point, and attack wherever they are.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius in Linf, in units of ``x``; or a :class:`~art_oat.evaluation.ThreatModel`, for L2.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            displacements: How weights are moved; None for the defaults of :class:`Displacements`.
            options: How it runs: ``shard_size`` (samples attacked at once), ``seed`` and ``verbose``. The same seed
                gives the same figures, and the same directions at every lam.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
        """
        data, threat = (as_array(x, "x"), as_array(y, "y")), ThreatModel.of(eps)
        moves = Displacements() if displacements is None else displacements
        points = _checked(classifier, data, threat, (lambdas, widths), moves, options)
        tensors = classifier.as_tensors(*data)
        nb_losses = len(points) * moves.nb_losses
        with tqdm(total=nb_losses, desc="flatness", disable=not options.verbose, unit="loss") as bar:
            found = [_measured(classifier, point, tensors, threat, moves, options, bar) for point in points]
        return cls(tuple(found), threat.eps, threat.norm, moves, len(data[0]))

    def at(self, lam: float, width: float | None = None) -> PointFlatness:
        """Return what was found at one operating point; the width may be left out where only one was measured.

        Raises:
            ValueError: If it was not measured.
        """
        of_lam = [point for point in self.points if point.lam == lam and width in (None, point.width)]
        if len(of_lam) != 1:
            known = ", ".join(f"({point.lam:g}, {point.width:g})" for point in self.points)
            raise ValueError(f"lam and width must name one point that was measured, {known}, got ({lam}, {width}).")
        return of_lam[0]

    def as_table(self) -> Table:
        """Return the figures, in nats."""
        moves, points = self.displacements, self.points
        columns = {name: [f"{getattr(point, name):g}" for point in points] for name in ("lam", "width")}
        columns["robust loss"] = [f"{point.loss:.3f}" for point in points]
        columns[f"average-case (xi {moves.average:g})"] = [f"{point.average:+.3f}" for point in points]
        columns["95% interval"] = ["[{:+.3f}, {:+.3f}]".format(*point.average_interval) for point in points]
        columns[f"worst-case (xi {moves.worst:g})"] = [f"{point.worst:+.3f}" for point in points]
        return Table(columns, self.title(), self._notes())

    def _notes(self) -> list[str]:
        moves = self.displacements
        return [
            f"Rise of the loss in nats over {moves.nb_directions} random displacements, with a 95% t interval over "
            f"them, and at the worst of {moves.nb_restarts} searches; the smaller, the flatter.",
        ]

    def title(self) -> str:
        """Say what the figures are of."""
        attack = f"PGD-{self.displacements.nb_attack_steps} at eps {format_eps(self.eps)} ({self.norm})"
        return f"Flatness of the robust loss: {attack} on {self.nb_samples} samples"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per point: figures, how they were measured, and the mean landscape, a column per distance."""
        moves = self.displacements
        names = ("nb_directions", "nb_restarts", "nb_steps", "nb_attack_steps")
        made = {"eps": self.eps, "norm": self.norm, "nb_samples": self.nb_samples}
        made |= {name: getattr(moves, name) for name in names}
        for point in self.points:
            low, high = point.average_interval
            own: dict[str, Any] = {"lam": point.lam, "width": point.width, "robust_loss": point.loss}
            own |= {"average_xi": moves.average, "average": point.average}
            own |= {"average_low": low, "average_high": high, "worst_xi": moves.worst, "worst": point.worst}
            own |= {"worst_of_least_search": point.worst_of_least_search}
            means = point.landscape.mean(axis=0)
            own |= {f"loss at {it:g}": float(mean) for it, mean in zip(moves.distances, means, strict=True)}
            yield own | made

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`rows`; folders on the way are made."""
        write_rows(Path(path), self.rows())

    def plot(self, path: str | Path | None = None, *, subject: str = "") -> Figure:
        """Draw the landscape of every lam, and both figures against lam; a row for each width.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.
            subject: What the title says of the network and its data, such as ``"ResNet-20 on CIFAR-10"``.
        """
        from art_oat.evaluation.flatness_plots import plot_flatness  # Matplotlib is slow to import

        title = self.title() if not subject else f"{subject}. {self.title()}"
        path = None if path is None else Path(path)
        return plot_flatness(self.points, self.displacements, title=title, path=path)


def _checked(
    classifier: Any,
    data: tuple[Array, Array],
    threat: ThreatModel,
    dials: tuple[Iterable[float] | None, Iterable[float] | None],
    moves: Any,
    options: EvaluationOptions,
) -> list[OperatingPoint]:
    """Return where to measure, by width and lam; see :meth:`Flatness.measure`."""
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
    if not isinstance(moves, Displacements):
        raise TypeError(f"displacements must be Displacements or None, got {type(moves).__name__}.")
    points, faults = checked_points(classifier.model, *dials)
    faults = [*classifier.data_faults(*data), *options_faults(options, unused=_UNUSED), *faults]
    ball = ball_faults(threat.eps, threat.norm, ("Linf", "L2"))
    refuse([*faults, *ball])
    check_radii([threat.radius(classifier)], allow_large_eps=threat.allow_large_eps)
    return sorted(points, key=lambda point: (point.width, point.lam))


def _measured(
    classifier: OATClassifier,
    point: OperatingPoint,
    data: tuple[Tensor, Tensor],
    threat: ThreatModel,
    moves: Displacements,
    options: EvaluationOptions,
    bar: Any,
) -> PointFlatness:
    folded = fold(classifier.model, point)
    attack = PGD.for_evaluation(threat.eps, moves.nb_attack_steps, threat.norm)
    runs = {"batch_size": options.shard_size, "seed": options.seed, "tell": bar.update}
    loss = RobustLoss(classifier.preprocessed(folded), *data, attack, classifier.clip_values, **runs)
    return flatness_at(loss, movable(folded), point, moves, options.seed)
