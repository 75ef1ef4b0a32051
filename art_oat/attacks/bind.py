"""Attacks bound to a classifier: they take batches in which every sample has a lam of its own."""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_oat.attacks.by_lam import ByLam, parts_of
from art_oat.attacks.library import Perturb, library_of
from art_oat.attacks.protocol import Attack, ClipValues, ScalableAttack, TensorAttack
from art_oat.attacks.unit_images import NB_SIDES
from art_oat.checks import refuse, rounding
from art_oat.classifier import OATClassifier, PinnedClassifier, PreprocessedNetwork
from art_oat.compiled import compiler_faults
from art_oat.condition import OperatingPoint
from art_oat.contexts import borrowed_generators
from art_oat.draws import drawing_for, drawing_for_some
from art_oat.pinned import LiveNetwork


class BoundAttack(ABC):
    """An attack on one classifier, at one lam per sample."""

    def __init__(self, classifier: OATClassifier, attack: Attack | ByLam) -> None:
        self._classifier = classifier
        self._attack: Any = attack

    @property
    def draws_rows(self) -> bool:
        """Whether all that is random is drawn by :func:`~art_oat.attacks.draw`."""
        return False

    def scaled(self, factor: float) -> BoundAttack:
        """Return this with radius and step of the attack, a :class:`ScalableAttack`, times a factor in ``(0, 1]``."""
        return bind(self._attack.scaled(factor), self._classifier)

    def __call__(
        self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None = None, *, width: float = 1.0
    ) -> Tensor:
        """Return attacked inputs ``[N, ...]``.

        Args:
            x: Inputs, ``[N, ...]``, in the units that the classifier takes.
            y: Class indices, ``[N]``.
            lam: One per sample, ``[N]``; not checked.
            generator: What everything random is drawn from; None for torch's global one. ``HopSkipJump`` and
                ``BoundaryAttack`` of ART draw from a generator of their own.
            width: Of the whole batch; not checked.

        Raises:
            RuntimeError: If the attack does not return one finite input within the clip values for each of ``x``.
        """
        return self._attacked(x, y, lam, generator, width)

    @abstractmethod
    def _attacked(
        self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None, width: float
    ) -> Tensor: ...

    def at(self, point: OperatingPoint) -> TensorAttack:
        """Return the attack at one operating point; it attacks the classifier, whatever network it is given."""

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


def bind(attack: Attack | ByLam, classifier: OATClassifier, *, compiles: bool = False) -> BoundAttack:
    """Bind an attack to the operating points of a classifier.

    A :class:`TensorAttack` such as ``PGD`` runs once per batch, on a plain network with one lam per sample. All others,
    and those with ``keeps_batch = False``, run once per group of equal lam, on the pinned network of that lam. Attacks
    of ART and torchattacks are copied when a lam first occurs; the object given is never touched.

    Args:
        attack: A :class:`TensorAttack`; an ART evasion attack, made for the classifier or a view of it; a torchattacks
            attack, made for any network, which gets inputs as :class:`UnitImages`; a callable
            ``(network, x, y) -> x_adv`` on tensors; or :class:`ByLam`, by which each group meets the attack of its lam,
            one of those that are trained.
        classifier: What is attacked.
        compiles: Whether ``torch.compile`` compiles the network of each width that an attack on whole batches runs on.

    Raises:
        TypeError: If ``attack`` is none of these.
        ValueError: If it cannot be bound to this classifier, leads to classes rather than away from labels, or is by
            other lams than are trained; or if ``compiles``, and the attack takes no whole batches, or this machine has
            no compiler.
    """
    if compiles:
        refuse(compile_faults(attack, classifier))
    if isinstance(attack, ByLam):
        refuse(attack.faults(classifier.model.lambdas))
        binders = {lam: _binder(part, classifier) for lam, part in attack.attacks.items()}
        return _Grouped(classifier, attack, lambda view: binders[view.point.lam](view))
    if _takes_whole_batches(attack):
        return _WholeBatch(classifier, attack, compiles=compiles)
    return _Grouped(classifier, attack, _binder(attack, classifier))


def _binder(attack: Any, classifier: OATClassifier) -> Callable[[PinnedClassifier], Perturb]:
    """Return what binds an attack to one operating point."""
    if library := library_of(attack):
        refuse(library.faults(attack, classifier))
        return partial(library.bind, attack)
    if not callable(attack) or isinstance(attack, nn.Module | type):
        raise TypeError(
            "attack must be an attack of art_oat, ART or torchattacks, or a callable (network, x, y) -> x_adv, got "
            f"{_name(attack)}."
        )
    return partial(_bind_callable, attack)


class _WholeBatch(BoundAttack):
    """Runs on a plain network of each width that has all lams of a batch at once."""

    def __init__(self, classifier: OATClassifier, attack: Any, *, compiles: bool = False) -> None:
        super().__init__(classifier, attack)
        self._compiles = compiles
        self._networks: dict[float, tuple[LiveNetwork, PreprocessedNetwork]] = {}

    @property
    def draws_rows(self) -> bool:
        return _draws_rows(self._attack)

    def scaled(self, factor: float) -> BoundAttack:
        scaled = _WholeBatch(self._classifier, self._attack.scaled(factor), compiles=self._compiles)
        scaled._networks = self._networks
        return scaled

    def _attacked(self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None, width: float) -> Tensor:
        if width not in self._networks:
            live = self._classifier.model.live_network(width, compiles=self._compiles)
            self._networks[width] = live, self._classifier.preprocessed(live)
        live, network = self._networks[width]
        clip_values = self._classifier.clip_values
        live.set_lam(lam)
        return _checked(self._attack(network, x, y, clip_values=clip_values, generator=generator), x, clip_values)


class _Grouped(BoundAttack):
    """Runs on the pinned networks, group by group of equal lam."""

    def __init__(
        self, classifier: OATClassifier, attack: Attack | ByLam, bind_at: Callable[[PinnedClassifier], Perturb]
    ) -> None:
        super().__init__(classifier, attack)
        self._bind_at = bind_at
        self._bound: dict[tuple[float, float], Perturb] = {}

    @property
    def draws_rows(self) -> bool:
        return all(_draws_rows(part) for part in parts_of(self._attack).values())

    def _attacked(self, x: Tensor, y: Tensor, lam: Tensor, generator: torch.Generator | None, width: float) -> Tensor:
        x_adv, seed = x.clone(), int(torch.randint(2**31, (), generator=generator))
        for value in lam.unique().tolist():
            if (value, width) not in self._bound:
                self._bound[value, width] = self._bind_at(self._classifier.at(value, width))
            group = lam == value
            own_seed = seed + round(2**16 * value)  # whichever other groups a process has
            rows = drawing_for_some(group) if self.draws_rows else drawing_for(None)  # which may go on with a part
            with borrowed_hosts(x.device, own_seed), rows:
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
    """Seed the generators that other libraries draw from (torch, NumPy, Python), and restore them after the block."""
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
    """Say why an attack of a library cannot take inputs that are no square images, by letting it attack one.

    Some cut patches out of square images, or filter three channels, and fail on others when they first run; so do
    attacks that are made of such.

    Raises:
        TypeError: As :func:`bind`.
        ValueError: As :func:`bind`.
    """
    bind(attack, classifier)
    library = library_of(attack)
    if library is None or _takes_square_images(classifier):
        return []
    view, bounds = classifier.at(classifier.model.lambdas[-1]), classifier.clip_values
    table = classifier.model.encoding.table
    middle = 0.5 if bounds is None else torch.as_tensor(np.mean(bounds, axis=0)).to(table)
    x = table.new_ones(1, *classifier.input_shape) * middle
    y = view.as_module()(x).argmax(dim=1)
    faults = []
    for part in library.parts(attack):
        try:
            with borrowed_hosts(x.device, 0):
                _checked(library.bind(part, view)(x, y), x, bounds)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's attack may raise
            faults.append(f"{_name(part)} fails: {error}")
    if faults:
        shape = f"attack must take inputs of shape {classifier.input_shape}, on one of which"
        advice = "PGD, AutoAttack and most attacks of torchattacks take any shape."
        faults = [" ".join([shape, *faults, advice])]
    return faults


def compile_faults(attack: Attack | ByLam, classifier: OATClassifier, name: str = "compiles") -> list[str]:
    """Say why what an attack runs on cannot be compiled; ``name`` is that of the option that asks for it."""
    if not _takes_whole_batches(attack):
        return [
            f"{name} needs an attack that takes the samples of all lams at once, such as PGD and NFGSM, got "
            f"{_name(attack)}, which runs on one network per lam."
        ]
    return [f"{name}: {fault}" for fault in compiler_faults(classifier.device)]


def _takes_whole_batches(attack: Any) -> bool:
    return is_tensor_attack(attack) and bool(getattr(attack, "keeps_batch", True))


def _draws_rows(attack: Any) -> bool:
    return getattr(attack, "draws_rows", False) is True


def scaling_faults(attack: Attack | ByLam, name: str = "eps_warmup") -> list[str]:
    """Say why the radius of an attack cannot be scaled; ``name`` is that of the option that asks for it."""
    return [
        f"{place}{name} needs an attack with scaled(factor), which returns it with eps and step times a factor, such "
        f"as PGD and NFGSM, got {_name(part)}."
        for place, part in parts_of(attack).items()
        if not isinstance(part, ScalableAttack) or isinstance(part, type)
    ]


def _takes_square_images(classifier: OATClassifier) -> bool:
    shape = classifier.input_shape
    sides = shape[1:] if classifier.channels_first else shape[:-1]
    return len(sides) == NB_SIDES and sides[0] == sides[1]


def _name(attack: Any) -> str:
    return attack.__name__ if isinstance(attack, type) else type(attack).__name__


def is_tensor_attack(attack: Any) -> bool:
    """Whether an attack promises what a :class:`TensorAttack` does, by taking the keywords of one."""
    if not callable(attack) or isinstance(attack, nn.Module | type) or library_of(attack):
        return False
    try:
        parameters = inspect.signature(attack).parameters
    except ValueError:  # built in, without a signature
        return False
    return {"clip_values", "generator"} <= parameters.keys()


def _bind_callable(attack: Callable[..., Tensor], view: PinnedClassifier) -> Perturb:
    options = {"clip_values": view.clip_values} if is_tensor_attack(attack) else {}
    return partial(attack, view.as_module(), **options)
