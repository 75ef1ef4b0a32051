"""Libraries of attacks: how these are called by name, and how their objects are bound."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_oat.attacks.by_lam import parts_of
from art_oat.attacks.protocol import Norm, Objective
from art_oat.attacks.radius import Radius, format_eps
from art_oat.attacks.registry import AttackKind, AttackSpec, Use, kinds, register
from art_oat.classifier import OATClassifier, PinnedClassifier

Perturb = Callable[[Tensor, Tensor], Tensor]
"""Perturbs inputs ``[N, ...]`` with class indices ``[N]`` at one operating point."""

_NORMS: dict[str, Norm] = {"Linf": "Linf", "inf": "Linf", "L2": "L2", "2": "L2", "L1": "L1", "1": "L1"}
"""By what libraries call them; ART's are numbers."""


@dataclass(frozen=True, kw_only=True)
class AttackLibrary:
    """A library whose attacks are called ``library:NAME`` by their classes; :meth:`register` makes it known.

    Attributes:
        name: Its package.
        module: Where the classes are.
        step: What it calls ``eps_step``.
        target: Returns what an attack is made for, such as a network.
        arguments: Returns what it calls a norm, and other arguments that always hold.
        owns: Whether an object is an attack of the library.
        faults: Says what keeps an attack from being bound to a classifier.
        bind: Returns a copy of an attack that perturbs tensors at the operating point of a view.
        parts: Returns every attack that an attack is made of, itself included.
        takes_unit_images: Whether it knows inputs in [0, 1] alone, and counts ``eps`` in these.
        extra: The package that must be installed; None where it always is.
        nearest: Names of the classes that take ``eps`` and look for the nearest example within it.
    """

    name: str
    module: str
    step: str
    target: Callable[[OATClassifier], Any]
    arguments: Callable[[Norm], dict[str, Any]]
    owns: Callable[[Any], bool]
    faults: Callable[[Any, OATClassifier], list[str]]
    bind: Callable[[Any, PinnedClassifier], Perturb]
    parts: Callable[[Any], Iterable[Any]]
    takes_unit_images: bool = False
    extra: str | None = None
    nearest: frozenset[str] = frozenset()

    def register(self) -> None:
        """Make its names and its objects known."""
        _LIBRARIES[self.name] = self
        register(
            AttackKind(
                pattern=rf"{self.name}:\w*",
                spelled=f"{self.name}:NAME",
                train=self._for_training,
                evaluate=self._for_evaluation,
                faults=self._spec_faults,
                extra=self.extra,
                finds_nearest=lambda name: name.partition(":")[2] in self.nearest,
            )
        )

    def _for_training(self, spec: AttackSpec, classifier: OATClassifier, objective: Objective | None = None) -> Any:
        del objective  # each has its own
        kind = self._class(spec.name)
        step = {} if spec.eps_step is None else {self.step: spec.eps_step}
        wanted = {"eps": spec.eps, **step, **self.arguments(spec.norm), "n_classes": classifier.nb_classes}
        parameters = _parameters(kind)
        return kind(self.target(classifier), **{name: wanted[name] for name in wanted if name in parameters})

    def _for_evaluation(self, spec: AttackSpec, classifier: PyTorchClassifier) -> Mapping[str, Any]:
        """Make the attack with steps of a quarter of the radius, where it takes a step."""
        check_can_bind(spec.name, classifier)
        eps, clip_values = spec.eps, classifier.clip_values
        if self.takes_unit_images and clip_values is not None:
            low, high = (float(value.min()) for value in clip_values)
            eps = eps / (high - low)
        step = eps / 4 if self.step in _parameters(self._class(spec.name)) else None
        return {spec.name: self._for_training(AttackSpec(spec.name, eps, spec.norm, step), classifier)}

    def _spec_faults(self, spec: AttackSpec, use: Use) -> list[str]:
        name, kind = spec.name, self._class(spec.name)
        if kind is None:
            return [f"attack must be a class of {self.module}, got {name!r}."]
        parameters = _parameters(kind)
        faults = [] if "eps" in parameters else [f"attack must take eps, which {name} does not."]
        if spec.eps_step is not None and self.step not in parameters:
            faults.append(f"eps_step must be None for {name}, which takes no step, got {spec.eps_step}.")
        if "norm" not in parameters and name.endswith("L2") != (spec.norm == "L2"):
            faults.append(f"norm must be {'L2' if name.endswith('L2') else 'Linf'} for {name}, got {spec.norm}.")
        default = parameters[self.step].default if self.step in parameters else None
        is_default_taken = use == "training" and spec.eps_step is None and {"steps", "max_iter"} & parameters.keys()
        if is_default_taken and isinstance(default, int | float) and default > spec.eps:
            size, step = format_eps(spec.eps), format_eps(default)
            faults.append(f"eps_step must be given for {name} at eps {size}: its default, {step}, leaps over the ball.")
        return faults

    def _class(self, name: str) -> Any:
        """The class that a name means; None if there is none."""
        found = getattr(importlib.import_module(self.module), name.partition(":")[2], None)
        return found if isinstance(found, type) else None


_LIBRARIES: dict[str, AttackLibrary] = {}


def libraries() -> list[AttackLibrary]:
    """Return every library that is registered."""
    kinds()  # by which the files that register are imported
    return [*_LIBRARIES.values()]


def library_of(attack: Any) -> AttackLibrary | None:
    """Return the library that an attack is of; None for any other object."""
    return next((library for library in libraries() if library.owns(attack)), None)


def check_can_bind(name: str, classifier: PyTorchClassifier) -> None:
    """Refuse a classifier that no attack can be bound to.

    Raises:
        TypeError: If it is no ``OATClassifier``.
    """
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"attack {name} needs an OATClassifier to bind to, got a {type(classifier).__name__}.")


def radii_of(attack: Any, classifier: PyTorchClassifier, name: str = "eps") -> list[Radius]:
    """Return the radius that an attack says it has, or those of its parts where it has no ``eps`` of its own.

    Of :class:`~art_oat.attacks.ByLam`, return those of every attack.

    Args:
        attack: Anything.
        classifier: What it attacks.
        name: What the radius is called in messages.

    Returns:
        Radii in the units that the attack counts in; none where nothing has an ``eps``.
    """
    named = {f"{name} {place}".rstrip(", "): part for place, part in parts_of(attack).items()}
    return [radius for own_name, part in named.items() for radius in _radii_of_one(part, classifier, own_name)]


def _radii_of_one(attack: Any, classifier: PyTorchClassifier, name: str) -> list[Radius]:
    library, clip_values, inputs = library_of(attack), classifier.clip_values, "x"
    if library is not None and library.takes_unit_images:
        clip_values, inputs = None if clip_values is None else (0, 1), f"{library.name}' images"
    parts = [attack] if library is None or _has_radius(attack) else library.parts(attack)
    return [
        Radius(float(np.max(part.eps)), _norm_of(part), clip_values, classifier.input_shape, name, inputs)
        for part in parts
        if _has_radius(part)
    ]


def _has_radius(attack: Any) -> bool:
    """Whether its ``eps`` is a number, and no cost of moving the pixels' mass."""
    is_number = np.asarray(getattr(attack, "eps", None)).dtype.kind in "fiu"
    return is_number and type(attack).__name__ != "Wasserstein"


def _norm_of(attack: Any) -> Norm:
    is_euclidean = type(attack).__name__.endswith(("L2", "VirtualAdversarialMethod"))
    name = str(getattr(attack, "norm", None)).removesuffix(".0")
    return _NORMS.get(name, "L2" if is_euclidean else "Linf")


def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters
