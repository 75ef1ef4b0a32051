"""The method of a training: everything that decides what is learned, apart from data, schedule and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from art_oat.attacks import Attack, ByLam, Norm, Radius, attack_named, radii_of
from art_oat.attacks.registry import is_one_step, spelled
from art_oat.checks import refusals, refuse
from art_oat.classifier import OATClassifier
from art_oat.fields import described
from art_oat.numbers import flag_faults, is_name_in, plain_fields
from art_oat.training.awp import WeightPerturbation
from art_oat.training.dials import Dials, dials_faults, scaled_by
from art_oat.training.loss import LOSSES, Loss, TRADESLoss, loss_by_name, objective_of
from art_oat.training.method_faults import (
    attack_faults,
    bound_faults,
    kind_faults,
    loss_faults,
    pass_faults,
    size_faults,
    step_of,
)
from art_oat.training.precision import Precision, precision_faults, weight_faults
from art_oat.training.safeguard import OnNaN, divergence_faults
from art_oat.training.sampling import StratifiedSampling, WidthSampling, width_sampling_faults

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Changes inputs ``[N, ...]``, images as ``[N, C, H, W]``, at random, drawn from the generator it is given.

It keeps shape and clip range. Where the classifier's channels come last, inputs are handed to it with channels first,
and taken back. One that draws everything by :func:`~art_oat.draws.draw_rows` may have ``draws_rows = True``: where each
of several processes loads its own samples, these are then changed as they would be in one process.
"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is learned, and by which attack: the parts of once-for-all adversarial training.

    The class methods :meth:`dial`, :meth:`published`, :meth:`robust` and :meth:`fast` combine what was measured to go
    together. All attacks differentiate through the classifier's preprocessing.

    Args:
        attack: A name, as :func:`~art_oat.attacks.attack_named` takes it, or any attack of this library, of ART (made
            for the classifier that is trained, or a view of it) or of torchattacks (made for any network; its images
            are in [0, 1], which stands for the clip values), or a callable ``(network, x, y) -> x_adv`` on tensors.
            By name, PGD maximizes the divergence with TRADES. Attacks from outside run on copies, see
            :func:`art_oat.attacks.bind`; what is changed on the object counts from the next ``fit`` on.
        fallback: A stronger attack of many steps, likewise, for training by one step; None to trust ``attack``. It
            attacks some of ``validation_data`` after every epoch, see :class:`~art_oat.training.guard.Guard`. Where
            robust accuracy collapses, the epoch is undone with a ``CatastrophicOverfittingWarning``, and ``fit``
            continues with the fallback from the last good state. What a ``DataLoader``, a generator of ART's, an
            attack or an augmentation remembers is not undone. Validation is by the fallback, too.
        eps: Radius of attacks that are called by name, in units of ``x``.
        eps_step: Their step; None for their defaults. One step is always ``eps`` long.
        norm: Their norm, ``"Linf"`` or ``"L2"``; ``"n-fgsm"`` takes the first alone.
        allow_large_eps: Whether ``eps`` may be half the range of ``x``, or more; else refused as in another unit.
        loss: A name of :data:`~art_oat.training.loss.LOSSES`, or yours, see :func:`per_sample_loss`.
            Label smoothing and class weights are those of the classifier's loss.
        sampling: How lams are drawn; by default as published, all above 0 alike.
        dials: What lam sets in training: ``"weight"``, as published, of the adversarial term. Experimental, at full
            weight: ``"eps"``, the radius ``lam * eps`` of an attack that can be scaled; ``"attack"``, which one of a
            :class:`~art_oat.attacks.ByLam`. Validation of every lam is by all of ``eps``, or the largest lam's attack.
        weight_perturbation: Train where nearby weights would do worst (AWP), by a
            :class:`~art_oat.WeightPerturbation` or its ``gamma``; None for none.
        augmentation: Any callable ``(x, generator) -> x`` on tensors ``[N, ...]``, images as ``[N, C, H, W]``, that
            keeps shape, dtype and clip range; it comes before the attack.
        ema: Decay, in ``(0, 1)``, of a moving average of weights and statistics, which the network holds between
            epochs and after ``fit``, see :class:`~art_oat.training.ema.WeightAverage`. The next ``fit`` starts from
            there with a new average. None for no average.
        clean_share: Share of the epochs of the first ``fit``, in ``[0, 1)``, that train every lam on clean inputs
            alone, before the others and for an eighth of their time. A schedule goes through once in them, and once in
            the others. Their number is rounded, and one epoch is left for the attack. 0 for a trained network.
        eps_warmup: Share of the epochs with attack of the first ``fit``, in ``[0, 1)``, over which the radius of the
            attack, and its step with it, grow from 0 on a straight line, step by step: of ``n`` steps, the ``i``-th is
            taken at ``i / n`` of them. As in the recipe for XCiT (arXiv:2209.07399). Validation has the full
            radius, and the ``fallback`` comes in from there on. Attacks that have
            :meth:`~art_oat.attacks.ScalableAttack.scaled` can do it: PGD, NFGSM, and yours.
        width_sampling: Which widths a step trains. ``"random"``: one, so that ``n`` widths want ``n`` times the epochs.
            ``"all"``: every one. ``"sandwich"``: the largest, the smallest and one in between (Yu and Huang 2019,
            arXiv:1903.05134).
        distills: Whether smaller widths learn from the scores of the largest on the clean inputs, at the same lam, in
            place of the labels (arXiv:1903.05134). The attack keeps to the labels; class weights and label smoothing
            apply to the largest width alone.
        clip_grad_norm: Largest norm of the whole gradient of a step, over all parameters of the optimizer, as
            ``torch.nn.utils.clip_grad_norm_`` takes it; a longer one is shortened to it. None to leave it as it is.
        accumulation_steps: In how many parts a step's batch is computed, for memory: their gradients add to that of the
            whole batch. Norms that compute statistics do so for each part; dropout is drawn for each.
        matches_dropout: Whether the clean and the attacked pass of a sample draw the same for dropout, drop-path and
            whatever else draws from torch's global generators (matched dropout of PyramidAT, arXiv:2111.15121). The
            clean pass then runs in two parts, of samples without and with attack; where the network drops nothing and
            no norm mixes both kinds, nothing changes but rounding.
        sync_norms: Whether batch norms in training see the samples of all processes, where several train together: the
            result is that of one process, to rounding, at two small exchanges per norm and pass. Otherwise each
            normalizes its own part of a batch, and running statistics move by the mean of what each saw.
        precision: ``"bf16"``: attack and forward passes run under ``torch.autocast`` in bfloat16; the loss, the
            weights, their gradients and all that is measured stay float32.
        attack_precision: That of the attack alone; None for the same.
        compile_attack: Whether ``torch.compile`` compiles the networks that ``attack`` and ``fallback`` run on, one per
            width, when they first run, and once or twice more for batches of other sizes. For attacks that take whole
            batches, such as PGD. Nothing changes but rounding.
        on_nan: What follows where a loss, gradient, weight or score is not finite. ``"raise"``: an error, with the last
            good weights. ``"restore"``: the epoch is undone with a ``DivergenceWarning`` and run again, by other draws
            and at half the learning rate, whatever the schedule says; three times in a call of ``fit``, then an error.

    Raises:
        TypeError: If an argument is of another kind; names every fault.
        ValueError: If an argument is not as above; names every fault.
        ImportError: If torchattacks is asked for and not installed.

    Example:
        >>> Method.robust(eps=0.1, loss="trades").weight_perturbation
        0.005
    """

    attack: str | Attack | ByLam = described(f"One of {spelled('training')}.", default="pgd-7")
    fallback: str | Attack | None = described("Attack to go on by where robustness collapses.")
    eps: float = described("Radius of the attack in units of x, such as 0.2 or 8/255.", default=8 / 255)
    eps_step: float | None = described("Its step, likewise; its default if not given.")
    norm: Norm = described("Linf or L2.", default="Linf")
    allow_large_eps: bool = described("Take an eps of half the range of x, or more.", default=False)
    loss: str | Loss = described(f"One of {', '.join(LOSSES)}.", default="oat")
    sampling: StratifiedSampling = field(
        default_factory=StratifiedSampling, metadata={"help": "Draws of lam 1 for each of another lam above 0."}
    )
    dials: Dials = described("What lam sets: the weight of the attacked loss, or the share of eps.", default="weight")
    weight_perturbation: float | WeightPerturbation | None = described(
        "Size of a perturbation of weights (AWP), such as 0.01."
    )
    augmentation: Augmentation | None = described("Random changes of the inputs.")
    ema: float | None = described("Decay of an average of weights, such as 0.999.")
    clean_share: float = described(
        "Share of the epochs, the first, without attack; 0 for pretrained weights.", default=0.0
    )
    eps_warmup: float = described(
        "Share of the epochs with attack, the first, over which its radius grows from 0.", default=0.0
    )
    width_sampling: WidthSampling = described(
        "Widths a step trains: random (one), all, or sandwich (two ends, one between).", default="random"
    )
    distills: bool = described("Whether narrower widths learn from the answers of the widest.", default=False)
    clip_grad_norm: float | None = described("Largest norm of the gradient of a step.")
    accumulation_steps: int = described("Parts that a step's batch is computed in, for memory.", default=1)
    matches_dropout: bool = described("Whether clean and attacked inputs meet the same dropout.", default=False)
    sync_norms: bool = described(
        "Whether batch norms see the batches of all processes, if several train.", default=False
    )
    precision: Precision = described(
        "float32, or bf16: passes in bfloat16, faster where the hardware has it.", default="float32"
    )
    attack_precision: Precision | None = described(
        "That of the attack alone, float32 or bf16; as precision if not given."
    )
    compile_attack: bool = described(
        "Whether torch.compile compiles what the attack runs on: slow at first.", default=False
    )
    on_nan: OnNaN = described(
        "raise, or restore: undo an epoch that diverges, and halve the learning rate.", default="raise"
    )

    def __post_init__(self) -> None:
        plain_fields(self)
        parts = {name: getattr(self, name) for name in ("sampling", "weight_perturbation", "loss", "augmentation")}
        if kinds := kind_faults(**parts):
            raise TypeError(" ".join(kinds))
        refuse(
            attack_faults(self.attack, self.fallback, eps=self.eps, norm=self.norm, eps_step=self.eps_step)
            + refusals(lambda: self.loss_function)
            + flag_faults({"allow_large_eps": self.allow_large_eps, "compile_attack": self.compile_attack})
            + pass_faults(self.matches_dropout, self.sync_norms, self.accumulation_steps)
            + size_faults(
                ema=self.ema,
                clip_grad_norm=self.clip_grad_norm,
                weight_perturbation=self.weight_perturbation,
                clean_share=self.clean_share,
                eps_warmup=self.eps_warmup,
            )
            + width_sampling_faults(self.width_sampling, distills=self.distills)
            + precision_faults(precision=self.precision, attack_precision=self.attack_precision)
            + divergence_faults(self.on_nan)
            + dials_faults(self.dials, self.attack, fallback=self.fallback, compile_attack=self.compile_attack)
        )

    @classmethod
    def dial(cls, eps: float = 8 / 255, **changes: Any) -> Self:
        """Return the method to start with: PGD-7 and the hybrid loss, clean and attacked losses weigh alike.

        Half of the epochs are clean, and lam 1 is drawn five times as often as each other lam above 0.

        Args:
            eps: Radius of the attacks, in units of ``x``.
            **changes: Fields of the method; like those of the other class methods, they replace what is combined here.
        """
        return cls._combined(changes, eps=eps, sampling=StratifiedSampling({1.0: 5.0}), clean_share=0.5)

    @classmethod
    def published(cls, eps: float = 8 / 255, **changes: Any) -> Self:
        """Return OAT as it was published: PGD-7, the hybrid loss, every lam above 0 as often."""
        return cls._combined(changes, eps=eps)

    @classmethod
    def robust(cls, eps: float = 8 / 255, **changes: Any) -> Self:
        """Return the published method with logit pairing, and with perturbed and averaged weights.

        With the loss ``"trades"``, weights are perturbed by 0.005 in place of 0.01, both as published.
        """
        return cls._combined(changes, eps=eps, loss="alp", weight_perturbation=0.01, ema=0.999)

    @classmethod
    def fast(cls, eps: float = 8 / 255, **changes: Any) -> Self:
        """Return training by one step in place of seven, with logit pairing and averaged weights.

        The attack is N-FGSM from noise of ``eps``, half of what is published. The fallback is PGD-7, for which ``fit``
        needs ``validation_data``. It stays with ``"n-fgsm-NOISE"``, and goes where another attack is given.
        """
        return cls._combined(changes, eps=eps, attack="n-fgsm-1", fallback="pgd-7", loss="alp", ema=0.999)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Method:
        """Return what one of :data:`METHODS` combines.

        Raises:
            ValueError: If there is none of that name, and as :class:`Method`.
        """
        if not is_name_in(name, METHODS):
            raise ValueError(f"method must be one of {tuple(METHODS)}, got {name!r}.")
        return METHODS[name](**changes)

    @classmethod
    def _combined(cls, changes: dict[str, Any], **parts: Any) -> Self:
        """Exchange some parts, and what goes with them where it is not given itself."""
        if not is_one_step(changes.get("attack", parts.get("attack"))):
            parts["fallback"] = None  # what it guards is one step
        loss = changes.get("loss")
        if "weight_perturbation" in parts and (loss == "trades" or isinstance(loss, TRADESLoss)):
            parts["weight_perturbation"] = 0.005
        return cls(**{**parts, **changes})

    @property
    def loss_function(self) -> Loss:
        """What is minimized."""
        return loss_by_name(self.loss) if isinstance(self.loss, str) else self.loss

    @property
    def perturbation(self) -> WeightPerturbation | None:
        """How weights are perturbed."""
        given = self.weight_perturbation
        return WeightPerturbation(given) if isinstance(given, float | int) else given

    def resolved(self, classifier: OATClassifier) -> Method:
        """Return the method with every name replaced by what it means for a classifier.

        Raises:
            ValueError: If an attack does not take the classifier's inputs, or ``eps`` is too large for them.
        """

        def attack_of(given: Any, eps_step: float | None) -> Any:
            if not isinstance(given, str):
                return given
            objective = objective_of(loss)
            return attack_named(given, classifier, eps=self.eps, norm=self.norm, eps_step=eps_step, objective=objective)

        loss = self.loss_function
        step = step_of(self.attack, self.fallback, self.eps_step)
        attack, fallback = attack_of(self.attack, step), attack_of(self.fallback, self.eps_step)
        return replace(self, attack=attack, fallback=fallback, loss=loss, weight_perturbation=self.perturbation)

    def faults(self, classifier: OATClassifier) -> list[str]:
        """Say what of a resolved method does not suit a classifier.

        Raises:
            TypeError: If an attack is none.
        """
        dtype = classifier.model.encoding.table.dtype
        faults = weight_faults(dtype, precision=self.precision, attack_precision=self.attack_precision)
        scales_for, compiles = scaled_by(self.eps_warmup, self.dials), self.compile_attack
        faults += bound_faults(self.attack, self.fallback, classifier, scales_for=scales_for, compiles=compiles)
        faults += loss_faults(self.loss, classifier) + refusals(lambda: self.sampling.check(classifier.model.lambdas))
        radii = self.radii(classifier)
        return faults + [fault for radius in radii for fault in radius.faults(allow_large_eps=self.allow_large_eps)]

    def radii(self, classifier: OATClassifier) -> list[Radius]:
        """Return how far the attacks of a resolved method go."""
        return [*radii_of(self.attack, classifier), *radii_of(self.fallback, classifier, "eps of fallback")]


METHODS: Mapping[str, Callable[..., Method]] = {
    "dial": Method.dial,
    "published": Method.published,
    "robust": Method.robust,
    "fast": Method.fast,
}
"""By name; why they are what they are is measured in ``benchmarks``."""
