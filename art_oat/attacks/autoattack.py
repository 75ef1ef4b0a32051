"""AutoAttack, whole and in parts."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.attacks.radius import ball_faults
from art_oat.attacks.registry import AttackKind, register
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.checks import refuse
from art_oat.contexts import borrowed_generators, frozen
from art_oat.numbers import is_name_in, plain_fields

_MIN_CLASSES = 4
_PARTS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
}
_ADVICE = " See flags_doc.md for details."


_NAMED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "autoattack": ("AutoAttack", {}),
    "autoattack-plus": ("AutoAttack (plus)", {"version": "plus"}),
    "screen": ("Screen (APGD-CE, APGD-T)", {"parts": ("apgd-ce", "apgd-t")}),
}
"""How a name is displayed, and what it stands for."""


class AutoAttackWarning(UserWarning):
    """A warning of AutoAttack itself: its figure may be too high for this network."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690), by the authors' code: ``autoattack``, or ``pyautoattack``.

    ``"standard"`` runs APGD-CE, targeted APGD-DLR, targeted FAB and Square, ``"plus"`` also APGD-DLR and untargeted
    FAB, with restarts; each on the samples that are not broken yet. Targeted attacks have at most the ``K - 1`` other
    classes as targets. Inputs need not be images, see :class:`UnitImages`; their channels come first unless the network
    has ``channels_first = False``.

    Args:
        eps: Radius, in units of ``x``; above 0.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        version: ``"standard"`` or ``"plus"``.
        parts: Which of the version's attacks to run; None for all. Fewer than all must not be called AutoAttack.
        notify: Called with AutoAttack's own warnings (a randomized network, zero gradients, probabilities in place of
            scores, a random search that beats the gradients); None issues them as :class:`AutoAttackWarning`.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    eps: float
    norm: Norm = "Linf"
    version: Literal["standard", "plus"] = "standard"
    parts: tuple[str, ...] | None = None
    notify: Callable[[str], None] | None = field(default=None, compare=False, repr=False)
    keeps_batch: ClassVar[bool] = False
    """It continues with a part of the batch, and so cannot be bound to several lams at once."""

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = ball_faults(self.eps, self.norm)
        if not is_name_in(self.version, _PARTS):
            faults.append(f"version must be 'standard' or 'plus', got {self.version!r}.")
        elif not (set(self.parts or ()) <= set(_PARTS[self.version]) and self.parts != ()):
            faults.append(f"parts must be some of {_PARTS[self.version]}, or None for all, got {self.parts!r}.")
        refuse(faults)

    @property
    def name(self) -> str:
        """Its version, or its parts where these are not all."""
        if {*self.in_parts()} != {*_PARTS[self.version]}:
            return ", ".join(self.in_parts())
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    def scaled(self, factor: float) -> AutoAttack:
        """Return the attack with radius times a factor."""
        return replace(self, eps=factor * self.eps)

    def in_parts(self) -> dict[str, AutoAttack]:
        """Return its attacks by name, in order; each runs on the samples that are not broken yet."""
        names = _PARTS[self.version] if self.parts is None else self.parts
        return {name: replace(self, parts=(name,)) for name in names}

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs; samples that are not broken are as they were; see :class:`TensorAttack`.

        Raises:
            ValueError: If ``clip_values`` is not one range for all features, or there are fewer than 4 classes.
        """
        with torch.no_grad():
            nb_classes = network(x[:1]).shape[1]
        refuse(self.faults(nb_classes, clip_values))
        assert clip_values is not None
        channels_first = getattr(network, "channels_first", True)
        unit = UnitImages(network, clip_values, x.shape[1:], channels_first=channels_first)
        seed = int(torch.randint(2**31, (), generator=generator))
        options = {"norm": self.norm, "eps": self.eps / unit.span, "version": self.version, "seed": seed}
        in_float32 = lambda images: unit(images).float()  # noqa: E731 - AutoAttack knows no other scores
        original, batch_argument = _original(in_float32, {**options, "device": x.device})
        self._set_up(original, nb_classes)
        images = unit.to_images(x).float().contiguous()
        with borrowed_generators(x.device), frozen(network), ExitStack() as restored:  # FAB calls backward
            restored.callback(sys.settrace, sys.gettrace())  # which AutoAttack clears
            result = original.run_standard_evaluation(images, y, **{batch_argument: len(x)})
        x_adv: Tensor = result[0] if isinstance(result, tuple) else result
        return unit.from_images(x_adv.to(x))

    def _set_up(self, original: Any, nb_classes: int) -> None:
        original.attacks_to_run = [*self.in_parts()]
        counts = sys.modules[type(original).__module__.partition(".")[0] + ".checks"].funcs
        counts.update(dict.fromkeys(counts, 0))  # its checks count over all networks
        original.logger = original.apgd.logger = original.apgd_targeted.logger = _Listener(self.notify or _warn)
        for part in (original.apgd_targeted, original.fab):
            part.n_target_classes = min(part.n_target_classes, nb_classes - 1)

    def faults(self, nb_classes: int, clip_values: ClipValues | None) -> list[str]:
        """Say what keeps AutoAttack from a network of ``nb_classes`` within ``clip_values``."""
        faults = []
        if nb_classes < _MIN_CLASSES:
            needs = f"AutoAttack, which needs at least {_MIN_CLASSES} classes"
            faults.append(f"attack must be another than {needs}, got {nb_classes}. Use PGD instead.")
        return faults + unit_range_faults(clip_values, "AutoAttack")


def autoattack_package() -> str:
    """Return the name of the package whose AutoAttack runs: the authors' own where it is installed."""
    try:
        importlib.import_module("autoattack")
    except ImportError:
        return "pyautoattack"
    return "autoattack"


def _original(network: Callable[[Tensor], Tensor], options: dict[str, Any]) -> tuple[Any, str]:
    """Return the authors' implementation, and what it calls a batch size."""
    name = autoattack_package()
    package = importlib.import_module(name)
    if name == "pyautoattack":
        return package.AutoAttack(network, **options), "batch_size"
    return package.AutoAttack(network, **options, verbose=False), "bs"


def _warn(message: str) -> None:
    warnings.warn(message, AutoAttackWarning, stacklevel=2)


class _Listener:
    """A logger for both packages that passes on AutoAttack's warnings, and nothing else."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify

    def warning(self, message: str) -> None:
        self.notify(message.removesuffix(_ADVICE))

    def log(self, message: str) -> None:
        if message.startswith("Warning: "):
            self.warning(message.removeprefix("Warning: "))

    def info(self, message: str) -> None:
        """Keep quiet about progress, which is shown otherwise."""

    debug = info


register(
    AttackKind(
        pattern="|".join(_NAMED),
        spelled=", ".join(_NAMED),
        evaluate=lambda spec, _classifier: AutoAttack(spec.eps, spec.norm, **_NAMED[spec.name][1]).in_parts(),
        norms=("Linf", "L2", "L1"),
        display=lambda name: _NAMED[name][0],
        reserved="|".join(re.escape(it.lower()) for name, (shown, _) in _NAMED.items() for it in (name, shown)),
    )
)
