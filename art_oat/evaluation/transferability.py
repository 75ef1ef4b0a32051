"""Owns how attacks carry over from one lam to another, and what drawing lam at random is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_oat.attacks import (
    PGD,
    Attack,
    ClipValues,
    Norm,
    Radius,
    TensorAttack,
    bind,
    check_radii,
    format_apart,
    format_eps,
    is_correct,
    is_tensor_attack,
    radii_of,
    trial_faults,
)
from art_oat.attacks.autoattack import ball_faults, within_ball
from art_oat.checks import Array, as_array, count_faults, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.evaluate import checked_points
from art_oat.evaluation.suite import pgd
from art_oat.model import OATModel
from art_oat.storage import parse_csv, write_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NB_STEPS = 50
_MIN_LAMS = 2


class Mixture(nn.Module):
    """What a network answers on average whose lam is drawn anew for every query: ``log(mean_b softmax(f_b(x)))``.

    Its cross-entropy is ``-log`` of the mean probability of the label, so an attack on it follows the gradient of all
    networks at once.

    Args:
        networks: ``f_b``, each giving scores ``[N, K]``; at least one.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.channels_first = getattr(networks[0], "channels_first", True)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of the mean probabilities, ``[N, K]``, for inputs ``[N, ...]``."""
        logs = torch.stack([network(x).log_softmax(dim=1) for network in self.networks])
        return logs.logsumexp(dim=0) - math.log(len(self.networks))


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """What is right after an attack at lam a when it is answered at lam b, image by image.

    An image counts as robust at (a, b) if it is answered right at b, both as it is and attacked at a. The diagonal of
    ``robust`` is what an attacker leaves who knows the dial, any other entry what one leaves who is mistaken.

    **Drawing lam at random is not a defense**, however an entry beside the diagonal may look: an attacker who knows
    that lam is drawn attacks all lams at once (:class:`Mixture`). Both ways of setting the dial are judged by the same
    attacked inputs. Let ``C(i)`` hold image i as it is, attacked at each lam, and attacked at all lams at once, and let
    ``right_b(x')`` be 1 where ``x'`` is answered right at b, else 0. Then, with means over images i and lams b,::

        fixed(b)    = mean_i min_(x' in C(i)) right_b(x')             the attacker knows b
        random      = mean_i min_(x' in C(i)) mean_b right_b(x')      he knows that b is drawn, not which it is
        ask again   = mean_i min_(x' in C(i)) min_b right_b(x')       and may ask until a draw suits him
        gain        = random - max_b fixed(b)

    A gain of at most about 0 says that staying at the best lam keeps as much of single queries, or more. Whatever it
    is, ``ask again <= min_b fixed(b)``: against one who may repeat a query, drawing is no better than the worst fixed
    lam. As ever, these are shares that attacks left; a stronger attack leaves less.

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

    lambdas: tuple[float, ...]
    right: NDArray[np.bool_]
    eps: float
    norm: Norm = "Linf"
    width: float = 1.0
    attack: str = f"PGD-{_NB_STEPS}"
    attack_at_once: str = f"PGD-{_NB_STEPS}"

    def __post_init__(self) -> None:
        shape, nb_lams = np.shape(self.right), len(self.lambdas)
        is_fitting = shape[:-1] == (nb_lams + 2, nb_lams) and shape[-1] > 0
        if nb_lams < _MIN_LAMS or not is_fitting:
            raise ValueError(
                f"right must have shape [A + 2, A, N] for A lams, at least {_MIN_LAMS}, and N images, at least 1, "
                f"got {list(shape)} for {nb_lams} lams."
            )

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps: float,
        attack: Attack | None = None,
        norm: Norm = "Linf",
        lambdas: Iterable[float] | None = None,
        width: float | None = None,
        batch_size: int = 250,
        seed: int = 0,
        allow_large_eps: bool = False,
        verbose: bool = True,
    ) -> Self:
        """Attack every image at every lam, and at all of them at once, and answer each result at every lam.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius of the attacks, in units of ``x``; what goes farther is refused.
            attack: A :class:`~art_oat.attacks.TensorAttack`, which also attacks all lams at once; or anything else that
                ``OATTrainer`` takes, which cannot: there, as for None, PGD with 50 steps of ``2.5 eps / 50`` does.
                One that gives back unchanged what stands, as AutoAttack does, tells little of other lams.
            norm: ``"Linf"`` or ``"L2"``; another that :data:`~art_oat.attacks.Norm` names where PGD is not needed.
            lambdas: At least two; None for the trained lams.
            width: One of the trained widths; None for the classifier's default.
            batch_size: How many images are attacked at once.
            seed: What each attack draws from; the same seed gives the same matrix.
            allow_large_eps: Whether ``eps`` may be half the range of ``x``, or more, see
                :class:`~art_oat.attacks.radius.Radius`; that is refused as a number in another unit otherwise.
            verbose: Whether to show progress.

        Raises:
            RuntimeError: If an attack leaves its ball.
            TypeError: If ``classifier`` is not an ``OATClassifier``, or ``attack`` is no attack.
            ValueError: If an argument is not as above; names every fault.
        """
        if not isinstance(classifier, OATClassifier):
            raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
        x, y = as_array(x), as_array(y)
        points, point_faults = _points(classifier.model, lambdas, width)
        faults = [*classifier.data_faults(x, y), *count_faults({"batch_size": batch_size})]
        radius = Radius(eps, norm, classifier.clip_values, classifier.input_shape)
        radii = [radius, *radii_of(attack, classifier)]
        large = dict.fromkeys(fault for one in radii for fault in one.faults(allow_large_eps=allow_large_eps))
        refuse([*faults, *_attack_faults(attack, classifier, eps, norm), *large, *point_faults])
        check_radii([radius], allow_large_eps=True)
        attack = _pgd(eps, norm) if attack is None else attack
        at_once = attack if is_tensor_attack(attack) else _pgd(eps, norm)
        bound = bind(attack, classifier)
        networks = [classifier.at(*point).as_module() for point in points]
        targets = [*zip(networks, map(bound.at, points), strict=True), (Mixture(networks), at_once)]
        images, labels = classifier.as_tensors(x, y)
        right = [_right(networks, images, labels, batch_size)]
        for network, own in tqdm(targets, f"{_name(attack)} at each lam", disable=not verbose, unit="lam"):
            generator, checked = torch.Generator().manual_seed(seed), within_ball(own, eps, norm)
            bounds = classifier.clip_values
            x_adv = _attacked(checked, network, images, labels, bounds, generator, batch_size)
            right.append(_right(networks, x_adv, labels, batch_size))
        lams = tuple(point.lam for point in points)
        return cls(lams, np.stack(right), eps, norm, points[0].width, _name(attack), _name(at_once))

    @cached_property
    def _standing(self) -> NDArray[np.float64]:
        """Chance that an image is right as it is and attacked, ``[A + 1, A + 1, N]``; the last column draws lam."""
        chances = np.concatenate([self.right, self.right.mean(axis=1, keepdims=True)], axis=1)
        standing: NDArray[np.float64] = np.minimum(chances[:1], chances[1:])
        return standing

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """The whole matrix, ``[A + 3, A + 1]``: what tables and pictures show.

        Rows: not attacked; attacked at each lam; at all lams at once; the worst of these, image by image. Columns:
        answered at each lam; at a lam drawn at random.
        """
        clean = self.right[0].mean(axis=1)
        worst_case = self._standing.min(axis=0).mean(axis=1)
        return np.vstack([[*clean, clean.mean()], self._standing.mean(axis=2), worst_case])

    @property
    def nb_images(self) -> int:
        """On how many images everything was measured."""
        return len(self.right[0, 0])

    @property
    def clean(self) -> NDArray[np.float64]:
        """Accuracy without attack at each lam, ``[A]``."""
        return self.shares[0, :-1]

    @property
    def robust(self) -> NDArray[np.float64]:
        """Share of images that stand at lam b (column) after an attack at lam a (row), ``[A, A]``."""
        return self.shares[1:-2, :-1]

    @property
    def at_once(self) -> NDArray[np.float64]:
        """Share of images that stand at each lam after the attack on all lams at once, ``[A]``."""
        return self.shares[-2, :-1]

    @property
    def worst_case(self) -> NDArray[np.float64]:
        """Share of images that stand every attack at each lam, ``[A]``: from every lam, and from all at once.

        Much less than the diagonal of ``robust`` means that the attack is weak at this lam: one that was made for
        another finds more.
        """
        return self.shares[-1, :-1]

    @property
    def blind_lam(self) -> float:
        """Where one who does not know the dial attacks best: the row of ``robust`` with the smallest mean."""
        return self.lambdas[self._blind_row]

    @property
    def _blind_row(self) -> int:
        return int(self.robust.mean(axis=1).argmin())

    @property
    def blind(self) -> NDArray[np.float64]:
        """What such an attacker leaves at each lam, ``[A]``: the row of ``robust`` at ``blind_lam``."""
        row: NDArray[np.float64] = self.robust[self._blind_row]
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
        """Share of images that stand every attack at every lam: ``ask again`` above."""
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
        worst = self._standing.min(axis=0)
        gains: NDArray[np.float64] = worst[-1] - worst[self.lambdas.index(self.best_lam)]
        return gains

    def to_csv(self, path: str | Path) -> None:
        """Write a row per entry; ``right`` holds a bit per image, as hexadecimal digits, the first image leftmost."""
        own = {name: getattr(self, name) for name in ("eps", "norm", "width", "attack", "attack_at_once", "nb_images")}
        rows = []
        for attacked_at, right, shares in zip(
            ("none", *self.lambdas, "all"), self.right, self.shares[:-1, :-1], strict=True
        ):
            for lam, bits, share in zip(self.lambdas, right, shares, strict=True):
                entry = {"attacked_at": attacked_at, "answered_at": lam, "robust": share}
                rows.append({**own, **entry, "right": np.packbits(bits).tobytes().hex()})
        write_rows(Path(path), rows)

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read what :meth:`to_csv` wrote.

        Raises:
            ValueError: If a column is missing or a value is not as it was written.
        """
        return parse_csv(Path(path), cls._from_rows)

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        first = rows[0]
        if first["norm"] not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {first['norm']!r}.")
        lambdas = tuple(dict.fromkeys(float(row["answered_at"]) for row in rows))
        bits = [_bits(row["right"], int(first["nb_images"])) for row in rows]
        return cls(
            lambdas,
            np.reshape(bits, (len(lambdas) + 2, len(lambdas), -1)),
            float(first["eps"]),
            first["norm"],  # type: ignore[arg-type]
            float(first["width"]),
            first["attack"],
            first["attack_at_once"],
        )

    def table(self) -> str:
        """Return the matrix as text, in percent, and what it says about the dial."""
        columns = ["attacked at", *(f"lam {lam:g}" for lam in self.lambdas), "random lam"]
        names = ["nowhere", *columns[1:-1], "all at once", "worst case"]
        rows = [[name, *(f"{100 * it:.1f}" for it in row)] for name, row in zip(names, self.shares, strict=True)]
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)
        ]
        return "\n".join([f"{self.title()}:", "", lines[0], "-" * len(lines[0]), *lines[1:], "", *self.findings()])

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
        random, gain, error, again, fixed = (
            100 * share
            for share in (
                self.random_dial,
                self.random_dial_gain,
                self.random_dial_gain_error,
                self.random_dial_asked_again,
                self.worst_case.max(),
            )
        )
        return [
            f"An attacker who knows lam leaves {known:.1f}% on average over the lams; who does not, {blind:.1f}% from "
            f"lam {self.blind_lam:g} and {at_once:.1f}% from all at once.",
            f"A lam drawn for every query keeps {random:.1f}%, the best fixed lam, {self.best_lam:g}, {fixed:.1f}%: a "
            f"gain of {gain:+.1f} +- {error:.1f} points.",
            f"Drawing is not a defense: one who may ask until a draw suits him leaves {again:.1f}%, never more than at "
            f"the worst fixed lam ({100 * self.worst_case.min():.1f}%).",
        ]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the matrix as a heat map with its numbers.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.

        Returns:
            The Matplotlib figure.
        """
        from art_oat.evaluation.transferability_plot import plot_transfer  # Matplotlib is slow to import

        return plot_transfer(self, None if path is None else Path(path))


def _bits(digits: str, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=count).astype(bool)


def _pgd(eps: float, norm: Norm) -> PGD:
    return pgd(eps, _NB_STEPS, norm)


def _name(attack: Any) -> str:
    return f"PGD-{attack.nb_steps}" if isinstance(attack, PGD) else getattr(attack, "__name__", type(attack).__name__)


def _attack_faults(attack: Any, classifier: OATClassifier, eps: float, norm: Norm) -> list[str]:
    """Say why an attack cannot be made, or would not be the one that the matrix is labeled with."""
    faults, is_own = ball_faults(eps, norm), is_tensor_attack(attack)
    try:
        if not (faults or is_own):
            _pgd(eps, norm)
        if attack is not None:
            faults += trial_faults(attack, classifier)
    except ValueError as error:
        faults.append(str(error))
    if is_own and getattr(attack, "eps", eps) != eps:
        expected, got = format_apart(eps, attack.eps)
        faults.append(f"attack must have the eps given, {expected}, got one with {got}.")
    if is_own and getattr(attack, "norm", norm) != norm:
        faults.append(f"attack must have the norm given, {norm!r}, got one with {attack.norm!r}.")
    return faults


def _points(
    model: OATModel, lambdas: Iterable[float] | None, width: float | None
) -> tuple[list[OperatingPoint], list[str]]:
    """Return the operating points, lams ascending, and what is wrong with them."""
    try:
        lams = list(model.lambdas if lambdas is None else lambdas)
    except TypeError:
        return [], [f"lambdas must be several numbers, or None, got {lambdas}."]
    points, faults = checked_points(model, ((lam, width) for lam in lams))
    points.sort(key=lambda point: point.lam)
    if not faults and len(points) < _MIN_LAMS:
        faults.append(f"lambdas must hold at least {_MIN_LAMS} different lams, got {lams}.")
    return points, faults


def _attacked(
    attack: TensorAttack,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    clip_values: ClipValues | None,
    generator: torch.Generator,
    batch_size: int,
) -> Tensor:
    batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([attack(network, *batch, clip_values=clip_values, generator=generator) for batch in batches])


def _right(networks: Sequence[nn.Module], x: Tensor, y: Tensor, batch_size: int) -> NDArray[np.bool_]:
    """Which samples each network gets right, ``[A, N]``."""
    return torch.stack([is_correct(network, x, y, batch_size) for network in networks]).cpu().numpy()
