"""How attacks carry over from one lam to another, and what drawing lam at random is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from art_oat.attacks import PGD, Attack, Norm, format_eps, is_tensor_attack
from art_oat.checks import Array, as_array
from art_oat.classifier import OATClassifier
from art_oat.evaluation.cross_attacks import NB_STEPS, CrossAnswers, checked, cross_answers, name_of
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, ThreatModel
from art_oat.storage import parse_csv, write_rows
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class TransferMatrix(CrossAnswers, Tabular):
    """What is right after an attack at lam a when it is answered at lam b, image by image.

    An image counts as robust at (a, b) if it is answered right at b, both as it is and attacked at a. The diagonal of
    ``robust`` is what an attacker leaves who knows the dial.

    **Drawing lam at random is not a defense**: an attacker who knows that lam is drawn attacks all lams at once
    (:class:`Mixture`). ``C(i)`` holds image i as it is, attacked at each lam, and attacked at all lams at once, and
    ``right_b(x')`` is 1 where ``x'`` is answered right at b. With means over images i and lams b,::

        fixed(b)    = mean_i min_(x' in C(i)) right_b(x')             the attacker knows b
        random      = mean_i min_(x' in C(i)) mean_b right_b(x')      he knows that b is drawn, not which it is
        ask again   = mean_i min_(x' in C(i)) min_b right_b(x')       and may ask until a draw suits him
        gain        = random - max_b fixed(b)

    A gain of at most about 0 says that the best fixed lam keeps as much of single queries, or more. In any case ``ask
    again <= min_b fixed(b)``: against one who may repeat a query, drawing is no better than the worst fixed lam.

    Args:
        lambdas: ``A`` lams, at least two, ascending; each is attacked, and answers.
        right: Which images are answered right, bool ``[A + 2, A, N]``, at each lam: as they are, then attacked at each
            lam, then attacked at all lams at once.
        eps: Radius of the attacks, in units of ``x``.
        norm: Norm of the attacks.
        width: Width of all networks.
        attack: Name of the attack at each lam.
        attack_at_once: Name of the attack at all lams at once.

    Raises:
        ValueError: If ``right`` has another shape, or there are fewer than two lams or no images.
    """

    eps: float
    norm: Norm = "Linf"
    width: float = 1.0
    attack: str = f"PGD-{NB_STEPS}"
    attack_at_once: str = f"PGD-{NB_STEPS}"

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps: float | ThreatModel,
        attack: Attack | None = None,
        lambdas: Iterable[float] | None = None,
        width: float | None = None,
        options: EvaluationOptions = DEFAULTS,
    ) -> Self:
        """Attack every image at every lam, and at all of them at once, and answer each result at every lam.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius in Linf, in units of ``x``; or a :class:`~art_oat.evaluation.ThreatModel`, for another norm.
            attack: A :class:`~art_oat.attacks.TensorAttack`, which also attacks all lams at once; or anything else that
                ``OATTrainer`` takes, which cannot: there, as for None, PGD with 50 steps of ``2.5 eps / 50`` does.
                AutoAttack gives back unchanged what it does not break, and so tells little of other lams.
            lambdas: At least two; None for the trained lams.
            width: One of the trained widths; None for the classifier's default.
            options: How it runs: ``shard_size``, ``seed`` and ``verbose``. The same seed gives the same matrix.

        Raises:
            RuntimeError: If an attack leaves its ball.
            TypeError: If ``classifier`` is not an ``OATClassifier``, or ``attack`` is no attack.
            ValueError: If an argument is not as above; names every fault.
        """
        data, threat = (as_array(x, "x"), as_array(y, "y")), ThreatModel.of(eps)
        points = checked(classifier, data, threat, attack, lambdas, width, options)
        at_once: Any = attack if is_tensor_attack(attack) else PGD.for_evaluation(threat.eps, NB_STEPS, threat.norm)
        each = at_once if attack is None else attack
        right = cross_answers(classifier, points, data, threat, (each, at_once), options)
        lams, names = tuple(point.lam for point in points), (name_of(each), name_of(at_once))
        return cls(lams, right, threat.eps, threat.norm, points[0].width, *names)

    @property
    def blind_lam(self) -> float:
        """Where one who does not know the dial attacks best: the row of ``robust`` with the smallest mean."""
        return self.lambdas[int(self.robust.mean(axis=1).argmin())]

    @property
    def blind(self) -> NDArray[np.float64]:
        """What such an attacker leaves at each lam, ``[A]``: the row of ``robust`` at ``blind_lam``."""
        row: NDArray[np.float64] = self.robust[self.lambdas.index(self.blind_lam)]
        return row

    @property
    def gain_of_knowing(self) -> float:
        """Share of images that an attacker breaks only because he knows the dial: ``blind`` minus the diagonal."""
        return float(np.mean(self.blind - self.robust.diagonal()))

    @property
    def best_lam(self) -> float:
        """The best lam to stay at: the one with the largest ``worst_case``."""
        return self.lambdas[int(self.worst_case.argmax())]

    @property
    def random_dial(self) -> float:
        """Expected robust accuracy where lam is drawn for every query: ``random`` above."""
        return float(self.shares[-1, -1])

    @property
    def random_dial_asked_again(self) -> float:
        """Share of images that are robust against every attack at every lam: ``ask again`` above."""
        return float(self.right.all(axis=(0, 1)).mean())

    @property
    def random_dial_gain(self) -> float:
        """What drawing lam brings over the best fixed one: ``gain`` above, in ``[-1, 1]``."""
        return float(self._gains.mean())

    @property
    def random_dial_gain_error(self) -> float:
        """Standard error of ``random_dial_gain``, from the differences image by image."""
        return float(self._gains.std() / math.sqrt(self.nb_images))

    @property
    def _gains(self) -> NDArray[np.float64]:
        worst = self._robust.min(axis=0)
        gains: NDArray[np.float64] = worst[-1] - worst[self.lambdas.index(self.best_lam)]
        return gains

    def to_csv(self, path: str | Path) -> None:
        """Write a row per entry; ``right`` holds a bit per image, as hexadecimal digits, the first image leftmost."""
        bits = (np.packbits(it).tobytes().hex() for it in self.right.reshape(-1, self.nb_images))
        rows = [{**row, "right": right} for row, right in zip(self.rows(), bits, strict=True)]
        write_rows(Path(path), rows, is_signed=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per entry, with the columns of :meth:`to_csv` but for the answers image by image."""
        own = {name: getattr(self, name) for name in ("eps", "norm", "width", "attack", "attack_at_once", "nb_images")}
        attacked_at = ("none", *self.lambdas, "all")
        for a, b in np.ndindex(self.right.shape[:2]):
            yield {**own, "attacked_at": attacked_at[a], "answered_at": self.lambdas[b], "robust": self.shares[a, b]}

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read what :meth:`to_csv` wrote.

        Raises:
            ValueError: If a column is missing or a value is not as it was written.
        """
        return parse_csv(Path(path), cls._from_rows)

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        first: Any = rows[0]
        if first["norm"] not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {first['norm']!r}.")
        lambdas = tuple(dict.fromkeys(float(row["answered_at"]) for row in rows))
        bits = [_bits(row["right"], int(first["nb_images"])) for row in rows]
        right = np.reshape(bits, (len(lambdas) + 2, len(lambdas), -1))
        names = first["attack"], first["attack_at_once"]
        return cls(lambdas, right, float(first["eps"]), first["norm"], float(first["width"]), *names)

    def table(self) -> str:
        """Return the matrix as text, in percent, and what it says about the dial."""
        return str(self)

    def as_table(self) -> Table:
        """Return the matrix, in percent; the notes are the findings."""
        lams = [f"lam {lam:g}" for lam in self.lambdas]
        columns = {"attacked at": ["nowhere", *lams, "all at once", "worst case"]}
        shares = zip([*lams, "random lam"], self.shares.T, strict=True)
        columns |= {name: [f"{100 * share:.1f}" for share in column] for name, column in shares}
        return Table(columns, self.title(), self.findings())

    def title(self) -> str:
        """Say what the shares are of."""
        at_once = "" if self.attack_at_once == self.attack else f" (all at once: {self.attack_at_once})"
        width = "" if self.width == 1 else f", width {self.width:g}"
        return (
            f"Robust accuracy in percent, attacked at one lam and answered at another: {self.attack}{at_once} "
            f"at eps {format_eps(self.eps)} ({self.norm}) on {self.nb_images} images{width}"
        )

    def findings(self) -> list[str]:
        """Say what it is worth to know the dial, and to draw it, a sentence each."""
        known, blind, at_once = (100 * np.mean(it) for it in (self.robust.diagonal(), self.blind, self.at_once))
        gain, error = 100 * self.random_dial_gain, 100 * self.random_dial_gain_error
        best, worst = 100 * self.worst_case.max(), 100 * self.worst_case.min()
        return [
            f"An attacker who knows lam leaves {known:.1f}% on average over the lams; who does not, {blind:.1f}% from "
            f"lam {self.blind_lam:g} and {at_once:.1f}% from all at once.",
            f"A lam drawn for every query keeps {100 * self.random_dial:.1f}%, the best fixed lam, {self.best_lam:g}, "
            f"{best:.1f}%: a gain of {gain:+.1f} ± {error:.1f} points.",
            f"Drawing is not a defense: one who may ask until a draw suits him leaves "
            f"{100 * self.random_dial_asked_again:.1f}%, never more than at the worst fixed lam ({worst:.1f}%).",
        ]

    def plot(self, path: str | Path | None = None, *, subject: str = "") -> Figure:
        """Draw the matrix as a heat map with its numbers.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.
            subject: What the title says of the network and its data, such as ``"ResNet-20 on CIFAR-10"``.
        """
        from art_oat.evaluation.plots import plot_transfer  # Matplotlib is slow to import

        words: dict[str, Any] = {
            "title": f"{subject}. {self.title()}" if subject else self.title(),
            "findings": self.findings(),
        }
        return plot_transfer(self.shares, self.lambdas, **words, path=None if path is None else Path(path))


def _bits(digits: str, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=count).astype(bool)
