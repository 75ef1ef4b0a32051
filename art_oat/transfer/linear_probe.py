"""The linear probe: a head trained on features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from art_oat.checks import (
    Array,
    as_array,
    class_indices,
    input_faults,
    label_faults,
    refuse,
    warn_caller,
)
from art_oat.contexts import evaluating
from art_oat.model import OATModel
from art_oat.numbers import count_faults, is_finite_number, plain
from art_oat.surgery.tracing import real_tensors
from art_oat.transfer.head import head_path

_MAX_STEPS = 2000
_HISTORY = 20
_FLAT = 1e-6
_FEATURE_AXES = 2


class _Solution(NamedTuple):
    """A head, ``weight [K, D]`` and ``bias [K]``, and its objective in nats."""

    weight: Tensor
    bias: Tensor
    objective: float


class LinearProbe:
    """Multinomial logistic regression on what the head of a network gets: the fixed-feature protocol of transfer.

    ``min_(W, b) mean CE(W f(x) + b, y) + weight_decay v / 2 ||W||^2`` for the features ``f`` of the network in
    evaluation (Salman et al. 2020, arXiv:2007.08489). ``v`` is the mean variance of the features over the training
    data, so that a ``weight_decay`` means the same at every scale of features. It is scikit-learn's
    ``LogisticRegression`` with ``C = 1 / (weight_decay v N)``, solved by L-BFGS in float64. Nothing is drawn. Features
    are computed in one pass over the data. The head alone changes, in place; only a log-softmax may follow it.

    Args:
        network: A plain network whose head gives ``K`` scores, such as :func:`~art_oat.transfer.adapt` returns.
        weight_decay: Above 0. Of several, ``fit`` keeps the one with the highest accuracy on validation data, of equal
            ones the largest.
        head: Dotted path of the head; None to find it, see :func:`~art_oat.transfer.find_head`.
        input_shape: Shape of one sample, to find it by; None to try common image sizes.

    Attributes:
        weight_decay: That of the head, once it is trained; before, those to try.
        objective: What was minimized, in nats; NaN before.
        accuracy: Share of the validation data answered right; NaN where there are none.

    Raises:
        TypeError: If ``network`` is conditional, or no network.
        ValueError: If the head is not found, or no linear layer, or ``weight_decay`` is not as above.

    Example:
        >>> from art_oat.transfer import adapt
        >>> from art_oat.data import digits
        >>> from art_oat.models import SmallCNN
        >>> network = adapt(SmallCNN(), nb_classes=10, protocol="fixed-feature")
        >>> probe = LinearProbe(network, (1e-4, 1e-2)).fit(*digits().train, digits().validation)
        >>> probe.accuracy > 0.7  # by the features of random weights
        True
    """

    def __init__(
        self,
        network: nn.Module,
        weight_decay: float | Sequence[float] | NDArray[np.float64] = 1e-3,
        *,
        head: str | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        if isinstance(network, OATModel):
            raise TypeError("network must be plain, got an OATModel. Fix its lam: adapt(model, nb_classes, lam=0.3).")
        decays: tuple[Any, ...] = tuple(
            plain(it) for it in np.atleast_1d(np.asarray(plain(weight_decay), dtype=object))
        )
        if not decays or not all(is_finite_number(decay) and decay > 0 for decay in decays):
            raise ValueError(f"weight_decay must be a number above 0, or several, got {weight_decay!r}.")
        path = head_path(network, head, input_shape)
        found = network.get_submodule(path)
        if not isinstance(found, nn.Linear):
            raise ValueError(f"the head must be a linear layer, got {path!r}, a {type(found).__name__}.")
        self.network = network
        self.head = found
        self.weight_decay: float | tuple[float, ...] = decays if len(decays) > 1 else decays[0]
        self.objective = self.accuracy = float("nan")
        self._decays = sorted(decays, reverse=True)

    def fit(
        self,
        x: Array,
        y: Array,
        validation_data: tuple[Array, Array] | None = None,
        batch_size: int = 128,
        *,
        verbose: bool = False,
    ) -> Self:
        """Train the head.

        Args:
            x: Inputs ``(N, ...)`` of the network, finite.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            validation_data: Inputs and labels to choose ``weight_decay`` by.
            batch_size: How many samples go through the network at once.
            verbose: Whether to show progress of the one pass.

        Raises:
            ValueError: If an argument is not as above, several weight decays come without validation data, the head
                does not get one vector per sample, or the network does not return its scores; nothing is changed.

        Warns:
            sklearn.exceptions.ConvergenceWarning: If the slope is not yet 0 within 1e-6 when L-BFGS ends.
        """
        refuse(self._fit_faults(x, y, validation_data, batch_size))
        features, labels = self._features(x, batch_size, verbose=verbose), self._labels(y)
        solutions = [self._solve(features, labels, decay) for decay in self._decays]
        accuracies = [float("nan")] * len(solutions)
        if validation_data is not None:
            features, labels = self._features(validation_data[0], batch_size), self._labels(validation_data[1])
            accuracies = [self._accuracy(solution, features, labels) for solution in solutions]
        best = accuracies.index(max(accuracies))  # of equal ones the first, which has the largest weight decay
        self.accuracy, self.weight_decay, self.objective = (
            accuracies[best],
            self._decays[best],
            solutions[best].objective,
        )
        self._write(solutions[best])
        return self

    def features(self, x: Array, batch_size: int = 128) -> NDArray[np.float64]:
        """Return what the head gets for inputs ``(N, ...)``, in evaluation: ``(N, D)``.

        Raises:
            ValueError: If ``x`` is not finite, or the head does not get one vector per sample.
        """
        x = as_array(x, "x")
        refuse([*input_faults(x, x.shape[1:]), *count_faults({"batch_size": batch_size})])
        result: NDArray[np.float64] = self._features(x, batch_size).numpy()
        return result

    def _fit_faults(
        self, x: Array, y: Array, validation_data: tuple[Array, Array] | None, batch_size: int
    ) -> list[str]:
        faults = [*self._faults(x, y, ("x", "y")), *count_faults({"batch_size": batch_size})]
        if validation_data is not None:
            faults += self._faults(*validation_data, ("x of validation_data", "y of validation_data"))
        elif len(self._decays) > 1:
            nb_tried = len(self._decays)
            faults.append(f"validation_data must be given to choose one of {nb_tried} weight decays by, got None.")
        return faults

    def _faults(self, x: Array, y: Array, names: tuple[str, str]) -> list[str]:
        x, y = (as_array(data, name) for data, name in zip((x, y), names, strict=True))
        faults = input_faults(x, x.shape[1:], names[0])
        if not len(x):
            faults.append(f"{names[0]} must hold at least one sample, got none.")
        nb_classes = self.head.out_features
        if wrong := label_faults(y, len(x), nb_classes, names[1]):
            wrong.append(f"The head gives {nb_classes} scores: adapt(source, nb_classes=...) gives it another.")
        return [*faults, *wrong]

    def _labels(self, y: Array) -> Tensor:
        return torch.from_numpy(class_indices(as_array(y, "y"), self.head.out_features))

    def _features(self, x: Array, batch_size: int, *, verbose: bool = False) -> Tensor:
        like = next(it for it in self.network.parameters() if it.is_floating_point())
        batches = torch.from_numpy(as_array(x, "x")).split(plain(batch_size))
        found: list[Tensor] = []
        scores: list[Tensor] = []

        def record(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            found.extend(_exact(got) for got in args[:1])  # where it is solved: not every device has float64
            scores[:] = [output.detach().clone()]

        with evaluating(self.network), torch.no_grad(), self.head.register_forward_hook(record):
            for batch in tqdm(batches, desc="features", unit="batch", disable=not verbose):
                answer = self.network(batch.to(like))
        if len(found) != len(batches) or any(it.dim() != _FEATURE_AXES for it in found):
            got = f"{len(found) / len(batches):g} calls per batch of {[list(it.shape) for it in found[:1]]}"
            raise ValueError(f"the head must get one vector per sample, [N, D], got {got}.")
        if not any(_is_same_to_softmax(it, scores[0]) for it in real_tensors(answer)):
            raise ValueError("the network must return the scores of its head, or their log-softmax; it changes them.")
        return torch.cat(found)

    def _solve(self, features: Tensor, labels: Tensor, weight_decay: float) -> _Solution:
        """Minimize from the head as it is; the objective is convex, so that only rounding depends on it."""
        has_bias = self.head.bias is not None
        mean = features.mean(dim=0) if has_bias else torch.zeros_like(features[0])
        variance = features.var(dim=0, correction=0).mean()
        scale = torch.where(variance > 0, variance.sqrt(), 1.0)
        features = (features - mean) / scale  # which a bias makes up for: L-BFGS takes fewer steps on these
        start = _exact(self.head.weight)
        bias = F.linear(mean, start, _exact(self.head.bias)) if has_bias else start.new_zeros(len(start))
        weight = (start * scale).requires_grad_()
        bias.requires_grad_(has_bias)
        value, slope = _minimize(features, labels, weight, bias, weight_decay)
        if slope > _FLAT:
            text = f"the slope must be 0 within {_FLAT:g}, got {slope:.2g} at weight_decay {weight_decay:g}."
            warn_caller(f"{text} Take a larger one.", ConvergenceWarning)
        weight = weight.detach() / scale
        return _Solution(weight, bias.detach() - weight @ mean, value)

    def _accuracy(self, solution: _Solution, features: Tensor, labels: Tensor) -> float:
        dtype = self.head.weight.dtype  # as it will be in the head
        weight, bias = (_exact(it.to(dtype)) for it in solution[:2])
        return float((F.linear(features, weight, bias).argmax(dim=1) == labels).double().mean())

    @torch.no_grad()
    def _write(self, solution: _Solution) -> None:
        self.objective = solution.objective
        self.head.weight.copy_(solution.weight)
        if self.head.bias is not None:
            self.head.bias.copy_(solution.bias)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _minimize(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, weight_decay: float
) -> tuple[float, float]:
    """Minimize ``mean CE + weight_decay / 2 ||W||^2`` in place; return its value and largest slope."""
    variables = [it for it in (weight, bias) if it.requires_grad]
    solver = torch.optim.LBFGS(
        variables,
        max_iter=_MAX_STEPS,
        tolerance_grad=_FLAT / 10,
        tolerance_change=0.0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        fit = F.cross_entropy(features @ weight.T + bias, labels)
        value = fit + weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(closure)
        value = closure()
    return float(value.detach()), max(float(it.grad.abs().max()) for it in variables if it.grad is not None)


def _is_same_to_softmax(answer: Tensor, scores: Tensor) -> bool:
    """Whether scores, or their log-softmax, are what a network answers, up to the rounding of a log-softmax."""
    if answer.shape != scores.shape:
        return False
    own, other = (it.cpu().double().log_softmax(dim=1) for it in (answer, scores))
    rounding = 16 * torch.finfo(answer.dtype).eps * (1 + float(scores.abs().max()))
    return bool((own - other).abs().max() <= rounding)
