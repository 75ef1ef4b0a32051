"""Attacks by lam: which one each sample of a training meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from art_oat.attacks.protocol import Attack
from art_oat.numbers import is_finite_number, plain


@dataclass(frozen=True)
class ByLam:
    """An attack for each lam: of one norm where lam is small and of another where it is large, say.

    With ``Method(attack=ByLam(...), dials="attack")`` lam sets by which attack a sample is trained, at full weight: lam
    0 by none, every other one by its own, and an answer at a lam in between is interpolated as ever. Each group of
    samples of equal lam is attacked by itself, on the pinned network of that lam.

    Args:
        attacks: By lam, in ``(0, 1]``: what :func:`bind` takes, but for names. Each trained lam above 0 must have one.

    Raises:
        TypeError: If ``attacks`` is no mapping, or an attack is a name or itself by lam.
        ValueError: If it is empty, or a lam lies outside ``(0, 1]``; names all of them.

    Example:
        >>> from art_oat.attacks import PGD
        >>> attack = ByLam({0.5: PGD(1.0, norm="L2"), 1.0: PGD(0.1)})
        >>> attack.last.norm
        'Linf'
    """

    attacks: Mapping[float, Attack]

    def __post_init__(self) -> None:
        if not isinstance(self.attacks, Mapping):
            raise TypeError(f"attacks must map lams to attacks, got {type(self.attacks).__name__}.")
        found = {plain(lam): attack for lam, attack in self.attacks.items()}
        faulty = [lam for lam in found if not (is_finite_number(lam) and 0 < lam <= 1)]
        if faulty or not found:
            raise ValueError(f"attacks must be for lams in (0, 1], got {faulty or 'none'}. Lam 0 meets no attack.")
        for lam, attack in found.items():
            if isinstance(attack, str | ByLam):
                raise TypeError(f"attacks must hold attacks such as PGD(0.1), got {attack!r} at lam {lam:g}.")
        object.__setattr__(self, "attacks", {float(lam): found[lam] for lam in sorted(found)})

    @property
    def last(self) -> Attack:
        """The attack of the largest lam."""
        return self.attacks[max(self.attacks)]

    def scaled(self, factor: float) -> ByLam:
        """Return the same with every attack, each a :class:`ScalableAttack`, scaled by a factor in ``(0, 1]``."""
        attacks: Mapping[float, Any] = self.attacks
        return ByLam({lam: attack.scaled(factor) for lam, attack in attacks.items()})

    def faults(self, lambdas: Sequence[float]) -> list[str]:
        """Say that the attacks are not for exactly the lams above 0 that a network is trained for."""
        above = [lam for lam in lambdas if lam > 0]
        missing, unknown = sorted(set(above) - set(self.attacks)), sorted(set(self.attacks) - set(above))
        faults = [f"got none for {missing}"] if missing else []
        faults += [f"got some for {unknown}, not trained"] if unknown else []
        if not faults:
            return []
        return [f"attacks must be for the lams above 0 that are trained, {above}: {', and '.join(faults)}."]


def parts_of(attack: Any) -> Mapping[str, Any]:
    """Return the attacks in one, by what messages put before them: it itself, or those of :class:`ByLam`."""
    if not isinstance(attack, ByLam):
        return {"": attack}
    return {f"at lam {lam:g}, ": part for lam, part in attack.attacks.items()}
