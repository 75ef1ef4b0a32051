"""Owns one step of training: draw, attack, weigh the losses, at every width; and the way back where it diverges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from art_oat.attacks import BoundAttack
from art_oat.checks import as_array, input_faults, range_faults, refuse, warn_caller
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.layers.batch_norm import observed_norms
from art_oat.model import OATModel
from art_oat.training.awp import adversarial_part, uses_clean_scores
from art_oat.training.ema import WeightAverage
from art_oat.training.loss import is_separable
from art_oat.training.method import Method
from art_oat.training.precision import Precision, autocast
from art_oat.training.records import EpochMetrics
from art_oat.training.sampling import draw_widths

_IMAGE_AXES = len(("N", "C", "H", "W"))
_NB_PROBES = 8
_FEWEST_INPUTS = 16
_FEWEST_VALUES = 8
_FARTHEST_SCORES = 100.0
_NB_SETTLING_STEPS = 50  # running statistics with torch's momentum of 0.1 have then forgotten where they began


@dataclass(frozen=True)
class _Batch:
    """What every width of a step has in common.

    Attributes:
        x: Inputs, ``[N, ...]``.
        y: Labels: class indices ``[N]`` or probabilities ``[N, K]``.
        lam: One per sample, ``[N]``.
        weight: Of the adversarial term, ``[N]``: lam, but 0 for all where the training is still a clean one.
    """

    x: Tensor
    y: Tensor
    lam: Tensor
    weight: Tensor

    @property
    def classes(self) -> Tensor:
        """Class indices, ``[N]``, which the attack leads away from."""
        return self.y if self.y.dim() == 1 else self.y.argmax(dim=1)

    @property
    def is_attacked(self) -> Tensor:
        """Which samples are attacked, bool ``[N]``."""
        return self.weight > 0


class StatisticsWarning(UserWarning):
    """Norms learn their statistics from so few values that the network may answer otherwise than it was trained to."""


class _UnfitError(Exception):
    """The last step, or the network itself, cannot be gone on with; holds the error to raise once that is undone."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Step:
    """One optimizer step on one batch; goes back to the last state known to be good where training diverges.

    The average takes in the weights after every step, once they are known to be good: the next step has a finite loss
    and gradient, or the check at the end of the epoch passes. So it never holds NaN.

    Args:
        classifier: Is trained.
        method: How.
        attack: The method's attack, bound to the classifier.
        generator: What everything is drawn from.
    """

    def __init__(
        self, classifier: OATClassifier, method: Method, attack: BoundAttack, generator: torch.Generator
    ) -> None:
        self.classifier = classifier
        self.method = method
        self.loss = method.loss_function
        self.attack = attack
        self.generator = generator
        self.model = classifier.model
        self.preprocess = classifier.preprocessed(nn.Identity(), is_training=True)
        self.state = [*self.model.parameters(), *self.model.buffers()]
        self.good_state = [tensor.detach().clone() for tensor in self.state]
        self.average = None if method.ema is None else WeightAverage(self.state, method.ema)
        self.metrics = EpochMetrics()
        self.epoch, self.is_clean = 0, False
        self._is_ahead = False  # whether the weights hold a step that the average does not
        self._is_augmentation_checked = False
        self._last_x = torch.empty(0)
        self._largest_score = torch.zeros(())  # read at the end of an epoch: a GPU need not wait for it in each step
        self._is_watched = False
        self._nb_steps = 0
        self._has_told = False
        # inputs with channels last in their shape are laid out so already
        self._is_channels_last = classifier.channels_first and any(map(_is_channels_last, self.model.parameters()))

    def start_epoch(self, epoch: int, *, is_clean: bool = False) -> None:
        """Count anew; a clean epoch trains every lam on clean inputs alone."""
        self.epoch, self.is_clean = epoch, is_clean
        self.metrics = EpochMetrics()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch: ``x [N, ...]``, class indices ``[N]`` or probabilities ``[N, K]``."""
        order = torch.randperm(len(x), generator=self.generator).to(x.device)  # no lam may always meet the same samples
        x, y = self._arranged(self._augmented(x[order])), y[order]
        lam = self.method.sampling.draw(self.model.lambdas, len(x), self.generator).to(x)
        self.classifier.optimizer.zero_grad()
        watched = nullcontext() if self._is_watched else statistics_watched(self.model)
        with self._undone_where_unfit(), watched as counts:
            self._take_gradient(_Batch(x, y, lam, torch.zeros_like(lam) if self.is_clean else lam))
        if counts is not None:
            self._is_watched = True
            _warn_of_few_values(counts, len(x), self.model)
        with torch.no_grad():
            torch._foreach_copy_(self.good_state, self.state)
        self._average()
        self.classifier.optimizer.step()
        self._is_ahead = True
        self._nb_steps += 1
        self._last_x = x[:_NB_PROBES].clone()

    def _take_gradient(self, batch: _Batch) -> None:
        """Leave in the parameters the gradient of the step, summed over its widths."""
        widths = draw_widths(self.method.width_sampling, self.model.widths, self.generator)
        attacked = {width: self._attacked(batch, width) for width in widths}
        self.model.train()
        target = batch.y
        with self._perturbed(batch, attacked):
            for width, x_adv in attacked.items():
                logits = self._add_gradient(batch, width, x_adv, target)
                if self.method.distills and width == self.model.widths[-1]:
                    target = logits.softmax(dim=1)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._check("gradient", nn.utils.get_total_norm(gradients))

    def _attacked(self, batch: _Batch, width: float) -> Tensor:
        """Return the samples with lam above 0 after the attack at a width, ``[A, ...]``."""
        is_attacked = batch.is_attacked
        x = self._arranged(batch.x[is_attacked])
        if not len(x):
            return x
        with self._precision(self.method.attack_precision or self.method.precision):
            return self.attack(x, batch.classes[is_attacked], batch.lam[is_attacked], self.generator, width=width)

    def _perturbed(self, batch: _Batch, attacked: Mapping[float, Tensor]) -> AbstractContextManager[None]:
        """Let the weights stand where they are worst within the block, if that is asked for."""
        perturbation = self.method.perturbation
        if perturbation is None or not perturbation.is_due(self.epoch) or not bool(batch.is_attacked.any()):
            return nullcontext()
        is_partial = self.model.widths[-1] not in attacked
        return perturbation(self.model, lambda: self._adversarial_losses(batch, attacked), is_partial=is_partial)

    def _adversarial_losses(self, batch: _Batch, attacked: Mapping[float, Tensor]) -> Iterator[Tensor]:
        """Give what weights are perturbed by, width by width; labels count, also where scores are distilled."""
        x, y, lam = (part[batch.is_attacked] for part in (batch.x, batch.y, batch.lam))
        x, loss = self._arranged(x), self.loss
        for width, x_adv in attacked.items():
            with self._precision(self.method.precision):
                logits_adv = self._scores(x_adv, lam, width)
                logits = self._scores(x, lam, width) if uses_clean_scores(loss) else logits_adv.detach()
            yield adversarial_part(loss, logits, logits_adv, y, lam, self.classifier.loss)

    def _add_gradient(self, batch: _Batch, width: float, x_adv: Tensor, target: Tensor) -> Tensor:
        """Add the gradient of the loss at one width to what is there, and return the clean scores.

        The loss compares with the target: the labels, or the scores of the largest width as probabilities.
        """
        lam, weight, is_attacked, classes = batch.lam, batch.weight, batch.is_attacked, batch.classes
        criterion = self.classifier.loss if target is batch.y else None  # a teacher's scores carry it already
        # a block for each pass: one may hold casts of weights without gradient, or of a graph that is gone
        with self._precision(self.method.precision):
            logits = self._scores(batch.x, lam, width)
        has_gradient = False
        if is_separable(self.loss):
            term = self.loss(logits, logits.detach()[is_attacked], target, weight, criterion)
            has_gradient = term.requires_grad  # a loss may have no clean term
            if has_gradient:
                term.backward()
            logits = logits.detach()
        with self._precision(self.method.precision):
            logits_adv = self._scores(x_adv, lam[is_attacked], width) if len(x_adv) else logits[:0]
        loss = self.loss(logits, logits_adv, target, weight, criterion)
        self._check("loss", loss)
        self._largest_score = logits.detach().abs().max()
        if loss.requires_grad or not has_gradient:  # without attacked samples, the clean term may be all there is
            loss.backward()
        self.metrics.add(loss.item(), logits.argmax(1) == classes, logits_adv.argmax(1) == classes[is_attacked])
        return logits.detach()

    def _precision(self, precision: Precision) -> AbstractContextManager[Any]:
        return autocast(precision, self.classifier.device)

    def _arranged(self, x: Tensor) -> Tensor:
        """Lay images out in memory as the network's weights are."""
        is_fitting = self._is_channels_last and x.dim() == _IMAGE_AXES
        return x.contiguous(memory_format=torch.channels_last) if is_fitting else x

    def _augmented(self, x: Tensor) -> Tensor:
        if self.method.augmentation is None:
            return x
        is_moved = not self.classifier.channels_first and x.dim() > len(("N", "F"))
        result = self.method.augmentation(x.movedim(-1, 1) if is_moved else x, self.generator)
        if is_moved and isinstance(result, Tensor) and result.dim() == x.dim():
            result = result.movedim(1, -1)
        if not self._is_augmentation_checked:
            refuse(_augmentation_faults(result, x, self.classifier.clip_values))
            self._is_augmentation_checked = True
        return result

    def _scores(self, x: Tensor, lam: Tensor, width: float) -> Tensor:
        scores = self.model(self.preprocess(x), lam, width)
        if isinstance(scores, Tensor) and scores.shape == (len(x), self.classifier.nb_classes):
            return scores.float() if self.method.precision == "bf16" else scores
        got = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise _UnfitError(
            TypeError(
                f"the network must give scores [N, {self.classifier.nb_classes}] also in training mode, got {got}. "
                "Convert a network that returns the scores alone: wrap it, or switch its auxiliary heads off."
            )
        )

    def end_epoch(self) -> None:
        """Look at all weights, and at some answers at every point: the last step may be the one that diverged."""
        with torch.no_grad(), self._undone_where_unfit():
            self._check("weight", nn.utils.get_total_norm([weight.detach() for weight in self.model.parameters()]))
            largest = {
                OperatingPoint(*point): self.classifier.at(*point).as_module()(self._last_x).abs().max()
                for point in itertools.product(self.model.lambdas, self.model.widths)
            }
            for score in largest.values():
                self._check("score", score)
        self._warn_of_large_scores({point: float(score) for point, score in largest.items()})
        self._average()

    def _warn_of_large_scores(self, scores: Mapping[OperatingPoint, float]) -> None:
        """Say once where scores by running statistics are of another size than those that the training saw."""
        point = max(scores, key=lambda point: scores[point])
        largest, in_training = scores[point], float(self._largest_score)
        is_settled = self._nb_steps >= _NB_SETTLING_STEPS and not self._has_told
        if is_settled and largest > _FARTHEST_SCORES * max(in_training, 1.0):
            self._has_told = True
            warn_caller(
                f"in evaluation at lam {point.lam:g}, width {point.width:g}, scores reach {largest:.3g}, in training "
                f"{in_training:.3g} (epoch {self.epoch}): the running statistics of its norms do not suit. "
                f"{_REMEDY}",
                StatisticsWarning,
            )

    def _average(self) -> None:
        if self.average is not None and self._is_ahead:
            self.average.update()
        self._is_ahead = False

    def averaged(self) -> AbstractContextManager[None]:
        """Let the network hold the average within the block, if there is one."""
        return nullcontext() if self.average is None else self.average.installed()

    def finish(self) -> None:
        """Leave the average in the network, if there is one."""
        if self.average is not None:
            self.average.install()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and statistics as trained, and the average; to be asked for between epochs."""
        average = None if self.average is None else self.average.state_dict()
        return {"tensors": [tensor.detach() for tensor in self.state], "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a step of the same network and method returned."""
        with torch.no_grad():
            for tensors in (self.state, self.good_state):
                torch._foreach_copy_(tensors, state["tensors"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _check(self, what: str, value: Tensor) -> None:
        if bool(value.isfinite()):
            return
        raise _UnfitError(
            RuntimeError(
                f"training must stay finite, got a {what} of {value.item()} in epoch {self.epoch}. Weights and "
                "statistics are back at ones that had a finite loss and gradient; the optimizer's own state is not. "
                "Lower the learning rate, or look for extreme inputs."
            )
        )

    @contextmanager
    def _undone_where_unfit(self) -> Iterator[None]:
        """Go back to the last good state where a pass within the block shows that it cannot be gone on with.

        This comes last of all that ends with the block: perturbed weights, too, are back before it.
        """
        try:
            yield
        except Exception as error:
            with torch.no_grad():
                torch._foreach_copy_(self.state, self.good_state)
            self.classifier.optimizer.zero_grad()
            if isinstance(error, _UnfitError):
                raise error.error from None
            raise


_REMEDY = (
    "Take larger batches, fewer lambdas, a smaller learning rate, or to_conditional(..., statistics='shared'); "
    "recalibrate(model, loader) computes the statistics anew."
)


@contextmanager
def statistics_watched(model: OATModel) -> Iterator[dict[str, int]]:
    """Within the block, note by path from how few values per channel each norm in training computes its statistics."""
    counts: dict[str, int] = {}

    def note(path: str, norm: nn.Module, x: Tensor) -> None:
        if norm.training:
            nb_values = x.numel() // x.shape[1]
            counts[path] = min(nb_values, counts.get(path, nb_values))

    with observed_norms(model.network, note):
        yield counts


def _warn_of_few_values(counts: Mapping[str, int], nb_samples: int, model: OATModel) -> None:
    if not counts or min(counts.values()) >= _FEWEST_VALUES:
        return
    path = min(counts, key=lambda path: counts[path])
    warn_caller(
        f"a batch of {nb_samples} is small for {len(model.lambdas)} lams: {path} computes its statistics from "
        f"{counts[path]} values per channel, and {sum(count < _FEWEST_VALUES for count in counts.values())} norms from "
        f"fewer than {_FEWEST_VALUES}. Training may explode. {_REMEDY}",
        StatisticsWarning,
    )


def layout_faults(model: OATModel) -> list[str]:
    """Say which layers cannot be trained with channels last on a processor.

    torch's convolutions there (oneDNN, its issue 6035) write past a buffer for the gradient of a strided 1x1 weight
    that takes few channels: the process dies, or learns from garbage.
    """
    if model.encoding.table.device.type != "cpu" or not any(map(_is_channels_last, model.parameters())):
        return []
    names = [
        name
        for name, layer in model.network.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.weight.dtype != torch.float64  # which torch takes elsewhere
        and max(layer.kernel_size) == 1 < max(layer.stride)
        and min(_inputs(layer)) < _FEWEST_INPUTS
    ]
    return [
        f"the network must not lie with channels last: on a processor, torch does not train {', '.join(names)} right, "
        f"strided and 1x1 on fewer than {_FEWEST_INPUTS} channels. Take the other way, torch.contiguous_format."
    ] * bool(names)


def _inputs(layer: nn.Conv2d) -> list[int]:
    """How many channels a convolution takes, at each of its widths."""
    sizes = getattr(layer, "_slim_channels", None)
    return [layer.in_channels] if sizes is None else [size.inputs for size in sizes.values()]


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is laid out with channels last, and in no other way too, as where one axis alone is longer."""
    is_image = tensor.dim() == _IMAGE_AXES
    return is_image and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _augmentation_faults(result: Any, x: Tensor, clip_values: Any) -> list[str]:
    if not isinstance(result, Tensor) or (result.shape, result.dtype) != (x.shape, x.dtype):
        got = f"{list(result.shape)} of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
        return [f"augmentation must return a tensor {list(x.shape)} of {x.dtype}, as it was given, got {got}."]
    values, name = as_array(result.double()), "the result of augmentation"
    return input_faults(values, tuple(x.shape[1:]), name) or range_faults(values, clip_values, name)
