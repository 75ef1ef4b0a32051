"""Attacks of libraries that are functions of images in [0, 1]: called by name, on any inputs, within a ball."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat.attacks.bind import borrowed_hosts
from art_oat.attacks.metrics import taken_back
from art_oat.attacks.pgd import project
from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.attacks.registry import AttackKind, AttackSpec, Use, register
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.checks import refuse
from art_oat.contexts import frozen


@dataclass(frozen=True)
class Ball:
    """What an attack of a library is asked for.

    Attributes:
        eps: Radius, in units of images in [0, 1].
        norm: Its norm.
        eps_step: Step, likewise; None for that of the library.
        nb_steps: Number of steps; None for that of the library.
    """

    eps: float
    norm: Norm
    eps_step: float | None = None
    nb_steps: int | None = None


Run = Callable[[str, nn.Module, Tensor, Tensor, Ball], Tensor]
"""Runs the attack that a library calls so on a network of images ``[N, C, H, W]`` in [0, 1] and labels ``[N]``."""


@dataclass(frozen=True)
class BallAttack:
    """An attack of a library on tensors of any range; it never leaves the ball.

    An attack for the smallest norm looks for the nearest example at whatever distance. In an evaluation an example
    beyond the ball does not count: the input is returned as it was, and has withstood the attack. In a training it is
    moved back onto the ball, as Rony et al. 2019 (arXiv:1811.09600) train with DDN.

    Args:
        name: What it is called, with its library.
        run: Runs it by its name in the library.
        eps: Radius, in units of ``x``.
        norm: Its norm.
        eps_step: Step, likewise; None for that of the library.
        is_training: Whether examples beyond the ball are moved onto it, rather than taken back.
    """

    name: str
    run: Run
    eps: float
    norm: Norm = "Linf"
    eps_step: float | None = None
    is_training: bool = False
    keeps_batch: ClassVar[bool] = False
    """Some go on with those samples of a batch that are not broken yet."""

    def scaled(self, factor: float) -> BallAttack:
        """Return the attack with radius and step times a factor."""
        return replace(self, eps=factor * self.eps, eps_step=None if self.eps_step is None else factor * self.eps_step)

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs; see :class:`~art_oat.attacks.protocol.TensorAttack`.

        Raises:
            ValueError: If ``clip_values`` is not one range for all features.
        """
        refuse(unit_range_faults(clip_values, self.name))
        assert clip_values is not None
        channels_first = getattr(network, "channels_first", True)
        unit = UnitImages(network, clip_values, x.shape[1:], channels_first=channels_first)
        step = None if self.eps_step is None else self.eps_step / unit.span
        attack, nb_steps = _parts(self.name)
        ball = Ball(self.eps / unit.span, self.norm, step, nb_steps)
        with (
            borrowed_hosts(x.device, int(torch.randint(2**31, (), generator=generator))),
            frozen(network),
            torch.enable_grad(),
        ):
            images = self.run(attack, unit, unit.to_images(x.detach()), y, ball)
        x_adv = unit.from_images(images.detach().clamp(0, 1)).to(x)
        if self.is_training:
            return x + project(x_adv - x, self.eps, self.norm)
        return taken_back(x, x_adv, self.eps, self.norm, clip_values)


@dataclass(frozen=True, kw_only=True)
class BallLibrary:
    """A library whose attacks are called ``library:NAME``, or ``library:NAME-STEPS``.

    Attributes:
        name: What names begin with.
        package: What must be installed, which is also the extra that installs it.
        install: How it is installed where there is no such extra.
        norms: Its attacks, with the norms that each knows.
        stepping: Those of them that take ``eps_step``.
        nearest: Those of them that look for the nearest example.
        run: Runs one.
    """

    name: str
    package: str
    norms: Mapping[str, tuple[Norm, ...]]
    stepping: frozenset[str]
    nearest: frozenset[str]
    run: Run
    install: str | None = None

    def register(self) -> None:
        """Make its names known."""
        register(
            AttackKind(
                pattern=rf"{self.name}:\w*(-[1-9]\d*)?",
                spelled=f"{self.name}:NAME[-STEPS]",
                train=lambda spec, classifier, _: self._attack(spec, classifier, is_training=True),
                evaluate=lambda spec, classifier: {spec.name: self._attack(spec, classifier, is_training=False)},
                faults=self._faults,
                norms=("Linf", "L2", "L1"),
                extra=self.package,
                install=self.install,
                finds_nearest=lambda name: _parts(name)[0] in self.nearest,
            )
        )

    def _attack(self, spec: AttackSpec, classifier: PyTorchClassifier, *, is_training: bool) -> Any:
        refuse(unit_range_faults(classifier.clip_values, spec.name))
        return BallAttack(spec.name, self.run, spec.eps, spec.norm, spec.eps_step, is_training)

    def _faults(self, spec: AttackSpec, _use: Use) -> list[str]:
        attack, _ = _parts(spec.name)
        if attack not in self.norms:
            known = ", ".join(f"{self.name}:{it}" for it in self.norms)
            return [f"attack must be one of {known}, got {spec.name!r}."]
        faults, norms = [], self.norms[attack]
        if spec.norm not in norms:
            faults.append(f"norm must be {' or '.join(map(repr, norms))} for {spec.name}, got {spec.norm!r}.")
        if spec.eps_step is not None and attack not in self.stepping:
            faults.append(f"eps_step must be None for {spec.name}, which takes no step, got {spec.eps_step}.")
        return faults


def _parts(name: str) -> tuple[str, int | None]:
    """What an attack is called in its library, and the number of its steps; None for the library's."""
    attack, _, nb_steps = name.partition(":")[2].partition("-")
    return attack, int(nb_steps) if nb_steps else None
