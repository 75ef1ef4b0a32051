"""Owns how any attack becomes one for batches in which every sample has a lam of its own."""

from __future__ import annotations

import copy
import inspect
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import VirtualAdversarialMethod, Wasserstein
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat.attacks.art import art_attack_faults, bind_art_attack, parts_of
from art_oat.attacks.protocol import ClipValues, Norm, TensorAttack
from art_oat.attacks.radius import Radius
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.checks import refuse, rounding
from art_oat.classifier import OATClassifier, PinnedClassifier, PreprocessedNetwork
from art_oat.condition import OperatingPoint
from art_oat.contexts import borrowed_generators
from art_oat.pinned import LiveNetwork

Attack: TypeAlias = TensorAttack | EvasionAttack | Callable[..., Tensor]
"""What can be bound; torchattacks' attacks are among the callables."""

_NORMS: dict[str, Norm] = {"Linf": "Linf", "inf": "Linf", "L2": "L2", "2": "L2", "L1": "L1", "1": "L1"}
"""By what libraries call them; ART's are numbers."""

Perturb = Callable[[Tensor, Tensor], Tensor]
"""Perturbs inputs ``[N, ...]`` with class indices ``[N]`` at one operating point."""


class BoundAttack(ABC):
    """An attack on one classifier, at one lam per sample."""

    @abstractmethod
    def __call__(
        self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None = None, *, width: float = 1.0
    ) -> Tensor:
        """Return attacked inputs ``[N, ...]``.

        Args:
            x: Inputs, ``[N, ...]``, in the units that the classifier takes.
            y: Class indices, ``[N]``.
            lam: One per sample, ``[N]``; taken as checked.
            generator: What everything random is drawn from; None for torch's global one. Attacks of ART with a
                generator of their own (``HopSkipJump``, ``BoundaryAttack``) draw from that regardless.
            width: Of the whole batch; taken as checked.

        Raises:
            RuntimeError: If the attack does not return one finite input within the clip values for each of ``x``.
        """
        ...

    def at(self, point: OperatingPoint) -> TensorAttack:
        """Return the same attack at one operating point, as one on tensors; the network is that of the classifier."""

        def attack(
            network: nn.Module,
            x: Tensor,
            y: Tensor,
            *,
            clip_values: ClipValues | None = None,
            generator: torch.Generator | None = None,
        ) -> Tensor:
            del network, clip_values  # both are the classifier's
            return self(x, y, x.new_full((len(x),), point.lam), generator, width=point.width)

        return attack


def bind(attack: Attack, classifier: OATClassifier) -> BoundAttack:
    """Bind an attack to the operating points of a classifier.

    What keeps the batch (a :class:`TensorAttack`, such as ``PGD``) runs once on all of it, on a plain network with one
    lam per sample. All else, and one of these that says ``keeps_batch = False``, runs once per group of equal lam, on
    the pinned network of that lam; ART's and torchattacks' attacks as copies that are made when a lam first occurs, so
    the object given is never touched.

    Args:
        attack: A :class:`TensorAttack`; an ART evasion attack, made for the classifier or a view of it; a torchattacks
            attack, made for any network, whose images are in [0, 1], which stands for the classifier's clip values, and
            in which inputs that are no images are written, see :class:`~art_oat.attacks.UnitImages`;
            or a callable ``(network, x, y) -> x_adv`` on tensors.
        classifier: What is attacked.

    Raises:
        TypeError: If ``attack`` is none of these.
        ValueError: If it cannot be bound to this classifier, or is bound to classes rather than away from them.
    """
    if is_tensor_attack(attack):
        keeps_batch = getattr(attack, "keeps_batch", True)
        return _WholeBatch(classifier, attack) if keeps_batch else _ByLam(classifier, partial(_bind_own, attack))
    if isinstance(attack, EvasionAttack):
        refuse(art_attack_faults(attack, classifier))
        return _ByLam(classifier, partial(_bind_from_outside, attack))
    if _is_from_torchattacks(attack):
        refuse(_torchattacks_faults(attack, classifier))
        return _ByLam(classifier, partial(_bind_from_outside, attack))
    if not callable(attack) or isinstance(attack, nn.Module | type):
        raise TypeError(
            "attack must be an attack of art_oat, ART or torchattacks, or a callable (network, x, y) -> x_adv, got "
            f"{_name(attack)}."
        )
    return _ByLam(classifier, lambda view: _bind_callable(attack, view))


class _WholeBatch(BoundAttack):
    """Runs on a plain network of each width that is bound to all lams of a batch at once."""

    def __init__(self, classifier: OATClassifier, attack: TensorAttack) -> None:
        self._classifier = classifier
        self._attack = attack
        self._subjects: dict[float, tuple[LiveNetwork, PreprocessedNetwork]] = {}

    def __call__(
        self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None = None, *, width: float = 1.0
    ) -> Tensor:
        if width not in self._subjects:
            live = self._classifier.model.live_network(width)
            self._subjects[width] = live, self._classifier.preprocessed(live)
        live, network = self._subjects[width]
        clip_values = self._classifier.clip_values
        live.set_lam(lam)
        return _checked(self._attack(network, x, y, clip_values=clip_values, generator=generator), x, clip_values)


class _ByLam(BoundAttack):
    """Runs on the pinned networks, group by group."""

    def __init__(self, classifier: OATClassifier, aim_at: Callable[[PinnedClassifier], Perturb]) -> None:
        self._classifier = classifier
        self._bind_at = aim_at
        self._bound: dict[tuple[float, float], Perturb] = {}

    def __call__(
        self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None = None, *, width: float = 1.0
    ) -> Tensor:
        x_adv = x.clone()
        for value in lam.unique().tolist():
            if (value, width) not in self._bound:
                self._bound[value, width] = self._bind_at(self._classifier.at(value, width))
            group = lam == value
            with borrowed_hosts(x.device, int(torch.randint(2**31, (), generator=generator))):
                perturbed = self._bound[value, width](x[group], y[group])
            x_adv[group] = _checked(perturbed, x[group], self._classifier.clip_values)
        return x_adv


def _checked(result: Any, x: Tensor, clip_values: ClipValues | None) -> Tensor:
    if not isinstance(result, Tensor) or result.shape != x.shape:
        got = list(result.shape) if hasattr(result, "shape") else type(result).__name__
        raise RuntimeError(f"an attack must return one attacked input for each input, {list(x.shape)}, got {got}.")
    if not bool(result.isfinite().all()):
        raise RuntimeError("an attack must return finite inputs, got NaN or infinity.")
    x_adv: Tensor = result.detach().to(x)
    if clip_values is not None:
        low, high, tolerance = (torch.as_tensor(value).to(x) for value in (*clip_values, rounding(clip_values)))
        if bool(((x_adv < low - tolerance) | (x_adv > high + tolerance)).any()):
            raise RuntimeError(
                f"an attack must stay within the clip_values {clip_values}, went to [{x_adv.min()}, {x_adv.max()}]."
            )
    return x_adv


@contextmanager
def borrowed_hosts(device: torch.device, seed: int) -> Iterator[None]:
    """Seed all that parts from outside draw from (torch, NumPy, Python), and put it back after the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - it is what ART draws from
    try:
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        with borrowed_generators(device, seed):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def trial_faults(attack: Attack, classifier: OATClassifier) -> list[str]:
    """Say why an attack from outside cannot take inputs that are no square images, by letting it attack one.

    Some of ART's and torchattacks' attacks cut patches out of square images, or filter three channels, and fail on
    others when they first run; so do attacks that are made of such. Attacks of ours take anything, and a callable is
    its author's: they are not tried.

    Args:
        attack: As :func:`bind` takes it.
        classifier: What is attacked.

    Raises:
        TypeError: As :func:`bind`.
        ValueError: As :func:`bind`.
    """
    bind(attack, classifier)
    if _takes_square_images(classifier):
        return []
    view, bounds = classifier.at(classifier.model.lambdas[-1]), classifier.clip_values
    table = classifier.model.encoding.table
    middle = 0.5 if bounds is None else torch.as_tensor(np.mean(bounds, axis=0)).to(table)
    x = table.new_ones(1, *classifier.input_shape) * middle
    y = view.as_module()(x).argmax(dim=1)
    faults = []
    for part in _attacks_from_outside(attack):
        try:
            with borrowed_hosts(x.device, 0):
                _checked(_bind_from_outside(part, view)(x, y), x, bounds)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's attack may raise
            faults.append(f"{_name(part)} fails: {error}")
    return [
        f"attack must take inputs of shape {classifier.input_shape}, on one of which {' '.join(faults)} "
        "PGD, AutoAttack and most attacks of torchattacks take any shape."
    ] * bool(faults)


def _attacks_from_outside(attack: Any) -> Iterator[Any]:
    """Every attack of ART or torchattacks that an attack is made of, itself included."""
    if isinstance(attack, EvasionAttack):
        yield from (part for part in parts_of(attack) if isinstance(part, EvasionAttack))
    elif _is_from_torchattacks(attack):
        yield attack
        for nested in attack._attacks.values():
            yield from _attacks_from_outside(nested)


def _bind_from_outside(attack: Any, view: PinnedClassifier) -> Perturb:
    return bind_art_attack(attack, view) if isinstance(attack, EvasionAttack) else _bind_torchattacks(attack, view)


def _takes_square_images(classifier: OATClassifier) -> bool:
    shape = classifier.input_shape
    sides = shape[1:] if classifier.channels_first else shape[:-1]
    return len(shape) == len(("C", "H", "W")) and sides[0] == sides[1]


def _name(attack: Any) -> str:
    return attack.__name__ if isinstance(attack, type) else type(attack).__name__


def is_tensor_attack(attack: Any) -> bool:
    """Whether an attack promises what a :class:`TensorAttack` does, by taking the keywords of one."""
    if not callable(attack) or isinstance(attack, EvasionAttack | nn.Module | type) or _is_from_torchattacks(attack):
        return False
    try:
        parameters = inspect.signature(attack).parameters
    except ValueError:  # built in, without a signature
        return False
    return {"clip_values", "generator"} <= parameters.keys()


def _is_from_torchattacks(attack: Any) -> bool:
    module = sys.modules.get("torchattacks.attack")  # whoever has such an attack has imported it
    return module is not None and isinstance(attack, module.Attack)


def radii_of(attack: Any, classifier: PyTorchClassifier, name: str = "eps") -> list[Radius]:
    """Return the radii that an attack says it has, in the units that it counts in; none where it has no ``eps``.

    Args:
        attack: Anything.
        classifier: What it attacks.
        name: What the radius is called in messages.
    """
    if isinstance(attack, Wasserstein):
        return []  # which counts what it takes to move the pixels' mass
    parts, clip_values, inputs = [attack], classifier.clip_values, "x"
    if _is_from_torchattacks(attack):
        parts += attack._attacks.values()
        clip_values, inputs = None if clip_values is None else (0, 1), "torchattacks' images"
    return [
        Radius(float(np.max(part.eps)), _norm_of(part), clip_values, classifier.input_shape, name, inputs)
        for part in parts
        if np.asarray(getattr(part, "eps", None)).dtype.kind in "fiu"
    ]


def _norm_of(attack: Any) -> Norm:
    is_euclidean = type(attack).__name__.endswith("L2") or isinstance(attack, VirtualAdversarialMethod)
    name = str(getattr(attack, "norm", None)).removesuffix(".0")
    return _NORMS.get(name, "L2" if is_euclidean else "Linf")


def _torchattacks_faults(attack: Any, classifier: OATClassifier) -> list[str]:
    faults = unit_range_faults(classifier.clip_values, "a torchattacks attack")
    if attack.attack_mode == "targeted(label)":
        faults.append("attack must lead away from the labels, got one in the mode targeted(label).")
    if attack.normalization_used is not None:
        faults.append(
            "attack must take images in [0, 1], got one with set_normalization_used. "
            "The normalization belongs to the classifier: preprocessing=(mean, std)."
        )
    return faults


def _bind_torchattacks(attack: Any, view: PinnedClassifier) -> Perturb:
    module = view.as_module()
    network = UnitImages(module, view.clip_values, view.input_shape, channels_first=module.channels_first)
    # the model in the memo: attacks hold attacks, which hold the model again
    bound = copy.deepcopy(attack, {id(attack.model): network})
    bound.set_device(view.device)

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        _seed(bound)
        return network.from_images(bound(network.to_images(x), y))

    return perturb


def _seed(attack: Any) -> None:
    """Draw the seeds that attacks of torchattacks keep: a fixed one would give every batch the same start."""
    if hasattr(attack, "seed"):
        attack.seed = int(torch.randint(2**31, ()))
    for nested in attack._attacks.values():
        _seed(nested)


def _bind_own(attack: TensorAttack, view: PinnedClassifier) -> Perturb:
    network = view.as_module()
    return lambda x, y: attack(network, x, y, clip_values=view.clip_values)


def _bind_callable(attack: Callable[[nn.Module, Tensor, Tensor], Tensor], view: PinnedClassifier) -> Perturb:
    network = view.as_module()
    return lambda x, y: attack(network, x, y)
