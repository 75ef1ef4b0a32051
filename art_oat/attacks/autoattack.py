"""AutoAttack, whole and in parts."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.attacks.radius import ball_faults
from art_oat.attacks.registry import AttackKind, register
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.checks import refuse
from art_oat.contexts import borrowed_generators

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
    """What AutoAttack itself warns of: its figure may be too high for this network."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690), by the authors' code: ``autoattack``, or ``pyautoattack``.

    ``"standard"`` runs APGD-CE, targeted APGD-DLR, targeted FAB and Square, ``"plus"`` also APGD-DLR and untargeted
    FAB, with restarts; each on what still stands. Where there are fewer classes than the targeted parts have targets,
    they bind to all ``K - 1`` others. Inputs need not be images: it gets them as such, see
    :class:`~art_oat.attacks.UnitImages`; channels come first unless the network has ``channels_first = False``, as that
    of a classifier with channels last does.

    Args:
        eps: Radius, in units of ``x``; above 0.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        version: ``"standard"`` or ``"plus"``.
        parts: Which of its attacks to run, of those of the version; None for all. With fewer than all it is not
            AutoAttack, and must not be called so.
        notify: Is told AutoAttack's own warnings (a randomized network, zero gradients, probabilities in place of
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
    """It goes on with what stands, and so cannot be bound to several lams at once."""

    def __post_init__(self) -> None:
        faults = ball_faults(self.eps, self.norm)
        if self.version not in _PARTS:
            faults.append(f"version must be 'standard' or 'plus', got {self.version!r}.")
        elif not (set(self.parts or ()) <= set(_PARTS[self.version]) and self.parts != ()):
            faults.append(f"parts must be some of {_PARTS[self.version]}, or None for all, got {self.parts!r}.")
        refuse(faults)

    @property
    def name(self) -> str:
        """What it is called: by its version, or by its parts where these are not all."""
        is_whole = {*self.in_parts()} == {*_PARTS[self.version]}
        return (
            {"standard": "autoattack", "plus": "autoattack-plus"}[self.version]
            if is_whole
            else ", ".join(self.in_parts())
        )

    def in_parts(self) -> dict[str, AutoAttack]:
        """Return its attacks by name, in order; run on what still stands, one after the other, they are the whole."""
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
        """Return attacked inputs, and samples that stand as they were; see :class:`~art_oat.attacks.TensorAttack`.

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
        engine, batch_argument = _engine(_SinglePrecision(unit), {**options, "device": x.device})
        self._set_up(engine, nb_classes)
        with borrowed_generators(x.device), _kept_trace(), _without_weight_gradients(network):
            result = engine.run_standard_evaluation(
                unit.to_images(x).float().contiguous(), y, **{batch_argument: len(x)}
            )
        x_adv: Tensor = result[0] if isinstance(result, tuple) else result
        return unit.from_images(x_adv.to(x))

    def _set_up(self, engine: Any, nb_classes: int) -> None:
        engine.attacks_to_run = [*self.in_parts()]
        counts = sys.modules[type(engine).__module__.partition(".")[0] + ".checks"].funcs
        counts.update(dict.fromkeys(counts, 0))  # what looked dynamic in one network would be held against the next
        engine.logger = engine.apgd.logger = engine.apgd_targeted.logger = _Listener(self.notify or _warn)
        for part in (engine.apgd_targeted, engine.fab):
            part.n_target_classes = min(part.n_target_classes, nb_classes - 1)

    def faults(self, nb_classes: int, clip_values: ClipValues | None) -> list[str]:
        """Say what keeps AutoAttack from judging a network of ``nb_classes`` within ``clip_values``."""
        faults = []
        if nb_classes < _MIN_CLASSES:
            faults.append(f"AutoAttack needs at least {_MIN_CLASSES} classes, got {nb_classes}. Use PGD instead.")
        return faults + unit_range_faults(clip_values, "AutoAttack")


def autoattack_package() -> str:
    """Return the name of the package whose AutoAttack runs: the authors' own where it is installed."""
    try:
        importlib.import_module("autoattack")
    except ImportError:
        return "pyautoattack"
    return "autoattack"


def _engine(network: nn.Module, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the authors' implementation, their own package where it is installed, and what it calls a batch size."""
    name = autoattack_package()
    package = importlib.import_module(name)
    if name == "pyautoattack":
        return package.AutoAttack(network, **options), "batch_size"
    return package.AutoAttack(network, **options, verbose=False), "bs"


def _warn(message: str) -> None:
    warnings.warn(message, AutoAttackWarning, stacklevel=2)


class _Listener:
    """Passes AutoAttack's warnings on, and nothing else; stands in for the loggers of both packages."""

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


class _SinglePrecision(nn.Module):
    """A network with float32 scores: AutoAttack knows no others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.float()


@contextmanager
def _kept_trace() -> Iterator[None]:
    """Put back the trace function (a debugger's, say), which AutoAttack clears."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)


@contextmanager
def _without_weight_gradients(network: nn.Module) -> Iterator[None]:
    """Ask for no gradient of any weight meanwhile: FAB would add to what a network in training holds."""
    wanting = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_()


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
