"""Owns the ART estimators: the conditional classifier, and the plain one it becomes at an operating point."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.utils import check_and_transform_label_format
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from art_oat.checks import (
    Array,
    as_array,
    class_indices,
    count_faults,
    input_faults,
    label_faults,
    range_faults,
    refuse,
    warn_caller,
)
from art_oat.condition import OperatingPoint
from art_oat.model import OATModel, check_model
from art_oat.pinned import PinnedNetwork
from art_oat.surgery import fold
from art_oat.surgery.slim_check import try_out

_IGNORED_BY_ART = {"logits", "y", "verbose", "raw", "standardise_output"}
"""Keywords that parts of ART pass to ``predict`` and rely on being ignored."""


class DefaultPointWarning(UserWarning):
    """What is attacked or trained is the default point, which nobody has set: lam 0, the least robust one."""


class _NumpyPreprocessing(torch.autograd.Function):
    """A preprocessor that works on arrays, as a step of a torch graph; backward is its own gradient estimate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Preprocessor) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(x)
        result, _ = operation(x.detach().cpu().numpy())
        return torch.as_tensor(result, dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        estimate = ctx.operation.estimate_gradient(x.cpu().numpy(), gradients[0].cpu().numpy())
        return torch.as_tensor(estimate, dtype=x.dtype, device=x.device), None


class PreprocessedNetwork(nn.Module):
    """A network behind the preprocessing of a classifier, as one differentiable module.

    Args:
        network: What the preprocessed inputs go through.
        operations: ART preprocessors in order; one that works on arrays passes its own gradient estimate on.
        channels_first: Whether channels are the first axis of an input rather than the last, for attacks to read that
            cut patches.
    """

    def __init__(self, network: nn.Module, operations: list[Preprocessor], *, channels_first: bool = True) -> None:
        super().__init__()
        self.network = network
        self.channels_first = channels_first
        self.operations = [operation for operation in operations if not _is_identity(operation)]
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for raw inputs ``[N, ...]``, in the units that the classifier takes."""
        for operation in self.operations:
            if isinstance(operation, PreprocessorPyTorch):
                x, _ = operation.forward(x, None)
            else:
                x = _NumpyPreprocessing.apply(x, operation)  # type: ignore[no-untyped-call]
        scores: Tensor = self.network(x)
        return scores


Run = Callable[[Tensor, slice], Tensor]
"""Answers a batch, given which of the samples it holds."""


def _as_lams(lam: ArrayLike, model: OATModel, nb_samples: int) -> Tensor:
    values = as_array(lam)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"lam must be one number, or hold one per sample, got values of dtype {values.dtype}.")
    return model.lams(torch.from_numpy(values), nb_samples)


def _refuse_point(keywords: dict[str, Any]) -> None:
    """Refuse what ART would ignore, and answer at another point than was asked for."""
    if asked := keywords.keys() & {"lam", "width"}:
        raise TypeError(
            f"this works at one operating point and takes no {' or '.join(sorted(asked))}. Use at(lam, width)."
        )


def _floating(x: Any) -> Any:
    """Return inputs as reals that can carry a gradient: tensors as tensors, all else as an array torch can read."""
    if isinstance(x, Tensor):
        return x if x.is_floating_point() else x.float()
    array = as_array(x)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _like(result: Any, x: Any) -> Any:
    """Return an array as what ``x`` is, a tensor on its device or an array."""
    return torch.as_tensor(result, device=x.device) if isinstance(x, Tensor) else result


def _is_identity(operation: Preprocessor) -> bool:
    is_standardization = isinstance(operation, StandardisationMeanStdPyTorch)
    return is_standardization and bool(np.all(operation.mean == 0) and np.all(operation.std == 1))


def data_faults(
    classifier: PyTorchClassifier, x: Array, y: Array, names: tuple[str, str] = ("x", "y"), *, takes_soft: bool = False
) -> list[str]:
    """Say all that is wrong with inputs and labels for a classifier of ART.

    Args:
        classifier: Knows its input shape, classes and clip values.
        x: Must be ``(N, *input_shape)`` with ``N`` at least 1, finite and within the clip values.
        y: Must be class indices ``(N,)`` or one-hot ``(N, K)``.
        names: What the two are called in the messages.
        takes_soft: Whether labels may be probabilities ``(N, K)``.
    """
    faults = input_faults(x, classifier.input_shape, names[0]) or range_faults(x, classifier.clip_values, names[0])
    if x.ndim == 0 or y.ndim == 0:
        return faults or [f"{names[1]} must hold one label per sample, got a single value."]
    if not len(x):
        faults.append(f"{names[0]} must hold at least one sample, got none.")
    return faults + label_faults(y, len(x), classifier.nb_classes, names[1], takes_soft=takes_soft)


def data_tensors(classifier: PyTorchClassifier, x: Array, y: Array, like: Tensor) -> tuple[Tensor, Tensor]:
    """Bring checked inputs and labels to the dtype and device of a tensor, labels as class indices ``[N]``.

    What rounding leaves outside the clip values is cut off, so that no attack moves it.
    """
    inputs = torch.as_tensor(as_array(x)).to(like)
    if classifier.clip_values is not None:
        low, high = (torch.as_tensor(value).to(like) for value in classifier.clip_values)
        if bool(((inputs < low) | (inputs > high)).any()):  # else all of them would be copied for nothing
            inputs = inputs.clamp(low, high)
    return inputs, torch.from_numpy(class_indices(as_array(y), classifier.nb_classes)).to(like.device)


class _ARTClassifier(PyTorchClassifier):
    """What both classifiers share: predictions that draw nothing, portable copies, layer names as in a plain one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layer_names = [f"network.{name}" for name, _ in self.model.network.named_children()]

    def __getstate__(self) -> dict[str, Any]:
        """Hold everything in the state itself; ART would write weight files into its data folder."""
        state = {name: value for name, value in vars(self).items() if name not in ("_model_wrapper", "_features")}
        return state | {"_model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back on the device it was on; ART would come back on the first GPU."""
        self.__dict__.update(state)
        self._model = self._make_model_wrapper(state["_model"])

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers of the network that was converted."""
        return [name.removeprefix("network.") for name in self._layer_names]

    def set_params(self, **kwargs: Any) -> None:
        """Set parameters; see ``PyTorchClassifier``, which breaks where it is given its own ``get_params()``.

        Raises:
            ValueError: If ``model`` is another than the one it has.
        """
        if kwargs.pop("model", self.model) is not self.model:
            raise ValueError("model must stay the one that the classifier was made with. Make another classifier.")
        super().set_params(**kwargs)

    def reduce_labels(self, y: Any) -> Any:
        """Turn one-hot labels into what the loss takes, and leave indices as they are; ART fails on those.

        Labels that stay real numbers, such as probabilities, come in the precision of the scores.
        """
        is_index = y.ndim == 1 or (y.shape[1:] == (1,) and self.nb_classes > 2)  # noqa: PLR2004 - ART's binary case
        if self._int_labels and is_index:
            return y.reshape(-1)
        labels = super().reduce_labels(y)
        if isinstance(labels, Tensor):
            return labels.to(self._dtype) if labels.is_floating_point() else labels
        is_double = self._dtype == torch.float64
        return labels.astype(np.float64 if is_double else np.float32) if labels.dtype.kind == "f" else labels

    @property
    def _dtype(self) -> torch.dtype:
        """The precision of the network."""
        raise NotImplementedError

    def _predict(self, x: Array, batch_size: int, run: Run) -> NDArray[np.float32]:
        """Predict in batches; ART's loader would draw from torch's global generator."""
        refuse(count_faults({"batch_size": batch_size}))
        preprocessed, _ = self._apply_preprocessing(as_array(x), y=None, fit=False)
        scores = [np.empty((0, self.nb_classes), dtype=np.float32)]
        for start in range(0, len(x), batch_size):
            index = slice(start, start + batch_size)
            batch = torch.from_numpy(preprocessed[index]).to(self._device)
            with torch.no_grad():
                scores.append(run(batch, index).float().cpu().numpy())
        result: NDArray[np.float32] = self._apply_postprocessing(preds=np.vstack(scores), fit=False)
        return result

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradient of the loss to ``x``, a tensor for a tensor; see ``PyTorchClassifier``."""
        _refuse_point(kwargs)
        if not self.all_framework_preprocessing:
            return _like(super().loss_gradient(_floating(as_array(x)), as_array(y), training_mode, **kwargs), x)
        return super().loss_gradient(_floating(x), _like(as_array(y), x), training_mode, **kwargs)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradients of the scores to ``x``, a tensor for a tensor; see ``PyTorchClassifier``."""
        _refuse_point(kwargs)
        label = as_array(label) if isinstance(label, Tensor) else label
        return _like(super().class_gradient(_floating(as_array(x)), label, training_mode, **kwargs), x)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """Return the loss, a tensor for a tensor; see ``PyTorchClassifier``."""
        _refuse_point(kwargs)
        one_hot = _like(check_and_transform_label_format(as_array(y), self.nb_classes), x)
        return super().compute_loss(_floating(x), one_hot, reduction, **kwargs)

    def custom_loss_gradient(self, loss_fn: Any, x: Any, y: Any, layer_name: Any, training_mode: bool = False) -> Any:
        """Return the gradient of a loss between activations, a tensor for a tensor; see ``PyTorchClassifier``."""
        inputs, targets = _floating(as_array(x)), _floating(as_array(y))
        return _like(super().custom_loss_gradient(loss_fn, inputs, targets, layer_name, training_mode), x)

    def get_activations(self, x: Any, layer: Any = None, batch_size: int = 128, framework: bool = False) -> Any:
        """Return the output of a layer; see ``PyTorchClassifier``, whose hooks would stay on the shared network.

        Raises:
            ValueError: If no layer has that name.
        """
        if isinstance(layer, str):
            if layer not in (*self.layer_names, *self._layer_names):
                raise ValueError(f"layer must be one of {', '.join(self.layer_names)}, or an index, got {layer!r}.")
            layer = self.layer_names.index(layer.removeprefix("network."))
        modules = list(self.model.modules())
        before = [set(module._forward_hooks) for module in modules]
        try:
            return super().get_activations(_floating(x), layer, batch_size, framework)
        finally:
            self.__dict__.pop("_features", None)
            for module, known in zip(modules, before, strict=True):
                for handle in set(module._forward_hooks) - known:
                    del module._forward_hooks[handle]

    def preprocessed(self, network: nn.Module, *, is_training: bool = False) -> PreprocessedNetwork:
        """Put this classifier's preprocessing before a network, for tensors, with gradients.

        Args:
            network: Any network that takes what this classifier's network takes.
            is_training: Take the operations that apply in training instead of those that apply in prediction.
        """
        applies = [operation.apply_fit if is_training else operation.apply_predict for operation in self._operations]
        used = [operation for operation, is_used in zip(self._operations, applies, strict=True) if is_used]
        return PreprocessedNetwork(network, used, channels_first=self.channels_first)

    @property
    def _operations(self) -> list[Preprocessor]:
        operations: list[Preprocessor] = self.preprocessing_operations
        return operations


class PinnedClassifier(_ARTClassifier):
    """An ordinary ``PyTorchClassifier`` at one operating point; made by :meth:`OATClassifier.at`.

    Every ART attack, metric and defense takes it. It follows the training of its ``OATClassifier``, and is not
    trained itself. It takes over preprocessing, postprocessing, clip values and loss as they were when it was made.
    """

    model: PinnedNetwork

    @property
    def point(self) -> OperatingPoint:
        """The operating point it answers at."""
        return self.model.point

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.model.encoding.table.dtype

    def as_module(self) -> PreprocessedNetwork:
        """Return ``x -> scores`` as one torch module, preprocessing included, for attacks outside of ART.

        Postprocessing defenses work on arrays and are not part of it.
        """
        return self.preprocessed(self.model)

    def predict(self, x: Array, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return scores ``(N, K)`` at its point; see ``PyTorchClassifier``. It stays in evaluation mode."""
        _refuse_point(kwargs)
        return self._predict(x, batch_size, lambda batch, _: self.model(batch))

    def _set_layer(self, train: bool, layerinfo: list[Any]) -> None:
        if train:
            raise RuntimeError(
                "a classifier pinned by at(lam, width) stays in evaluation mode, its dropout and norms too."
            )

    def fit(self, x: Array, y: Array, *args: Any, **kwargs: Any) -> None:
        """Refuse to train: the weights belong to every operating point.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a classifier pinned by at(lam, width) is not trained. Train the OATClassifier it is from.")

    def fit_generator(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to train, as :meth:`fit` does."""
        self.fit(np.empty(0), np.empty(0))

    def reset(self) -> None:
        """Refuse to forget, as :meth:`fit` refuses to train."""
        self.fit(np.empty(0), np.empty(0))

    def clone_for_refitting(self) -> Any:
        """Refuse, as :meth:`fit` does; ``OATClassifier.clone_for_refitting`` gives one to train."""
        self.fit(np.empty(0), np.empty(0))


class OATClassifier(_ARTClassifier):
    """An ART classifier whose robustness (and cost) is chosen at prediction time.

    It keeps the parameter order and every method of ``PyTorchClassifier``. What names no operating point
    (``loss_gradient``, ``class_gradient``, ``fit``, ...) works at the default one, ``lam`` and ``width``.

    Accuracy has a default, robustness has none: ``predict`` answers at the default point, and
    :func:`~art_oat.evaluate` asks for a lam. Until ``lam`` is set, what attacks differentiate, and ``fit``, warn once
    (:class:`DefaultPointWarning`) that they work at the least robust point, unless only one lam is trained.

    Args:
        model: A conditional network, from ``to_conditional``.
        loss: What ART's attacks differentiate; ``OATTrainer`` asks for a ``CrossEntropyLoss``.
        input_shape: Shape of one sample, such as ``(3, 32, 32)``.
        nb_classes: ``K``, at least 2.
        optimizer: Holds parameters of ``model`` (of the converted network, not of the one it was made from); needed
            for training only.
        use_amp: As in ``PyTorchClassifier``, like all that follow.

    Raises:
        TypeError: If ``model`` is not an ``OATModel``.
        ValueError: If ``optimizer`` holds no parameter of ``model``, or the network does not map ``input_shape`` to
            ``nb_classes`` scores; names every fault.
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchClassifier.estimator_params, "lam", "width"]
    _told: frozenset[str] = frozenset()

    def __init__(
        self,
        model: OATModel,
        loss: nn.modules.loss._Loss,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: torch.optim.Optimizer | None = None,
        use_amp: bool = False,
        opt_level: str = "O1",
        loss_scale: float | str | None = "dynamic",
        channels_first: bool = True,
        clip_values: Any = None,
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str = "gpu",
    ) -> None:
        check_model(model)
        super().__init__(
            model,
            loss,
            tuple(input_shape),
            nb_classes,
            optimizer,
            use_amp=use_amp,
            opt_level=opt_level,
            loss_scale=loss_scale,
            channels_first=channels_first,
            clip_values=clip_values,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
            device_type=device_type,
        )
        refuse([*self._optimizer_faults(), *self._shape_faults()])
        if len(model.tried_shape or ()) != len(self.input_shape):  # an image tells nothing of a clip
            try_out(model, fold(model, OperatingPoint(model.lambdas[0])), self.input_shape, model.encoding.table)

    def data_faults(
        self, x: Array, y: Array, names: tuple[str, str] = ("x", "y"), *, takes_soft: bool = False
    ) -> list[str]:
        """Say all that is wrong with inputs and labels to train on or to measure with; see :func:`data_faults`."""
        return data_faults(self, x, y, names, takes_soft=takes_soft)

    def as_tensors(self, x: Array, y: Array) -> tuple[Tensor, Tensor]:
        """Bring checked data to the network's dtype and device; see :func:`data_tensors`."""
        return data_tensors(self, x, y, self.model.encoding.table)

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.encoding.table.dtype

    def _optimizer_faults(self) -> list[str]:
        if self._optimizer is None:
            return []
        own = {id(parameter) for parameter in self.model.parameters()}
        held = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        if any(id(parameter) in own for parameter in held):
            return []
        return [
            "optimizer must hold parameters of the converted model, got none of them. "
            "to_conditional copies the network: build the optimizer from model.parameters() after it."
        ]

    def _shape_faults(self) -> list[str]:
        probe = torch.zeros(1, *self.input_shape, dtype=self.model.encoding.table.dtype, device=self._device)
        try:
            with torch.no_grad():
                scores = self.model.pinned()(probe)
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            return [f"input_shape {self.input_shape} must fit the network, which says: {error}"]
        expected = f"the network must give nb_classes scores per sample, [1, {self.nb_classes}]"
        if not isinstance(scores, Tensor):
            return [
                f"{expected}, got {type(scores).__name__}. "
                "Wrap it in a module that returns the scores alone, and convert that."
            ]
        return [] if scores.shape == (1, self.nb_classes) else [f"{expected}, got {list(scores.shape)}."]

    @property
    def model(self) -> OATModel:
        """The conditional network. Parts of ART that take it out of a classifier find it at the default point."""
        model: OATModel = self._model._model
        return model

    @property
    def lam(self) -> float:
        """The default lam, in ``[0, 1]``, or beyond up to ``model.farthest``; kept in ``model.default_point``."""
        return self.model.default_point.lam

    @lam.setter
    def lam(self, lam: float) -> None:
        self.model.default_point = OperatingPoint(lam, self.width)

    @property
    def width(self) -> float:
        """The default width, one of the trained ones; kept in ``model.default_point``."""
        return self.model.default_point.width

    @width.setter
    def width(self, width: float) -> None:
        with self._lam_as_named():
            self.model.default_point = OperatingPoint(self.lam, width)

    @contextmanager
    def _lam_as_named(self) -> Iterator[None]:
        """Leave it as said or unsaid whether the default lam is meant."""
        is_lam_named = self.model.is_lam_named
        try:
            yield
        finally:
            self.model.is_lam_named = is_lam_named

    def _tell(self, what: str, message: str) -> None:
        """Warn once of what is done at a default point that nobody has named."""
        if what in self._told or self.model.is_lam_named or len(self.model.lambdas) == 1:
            return
        self._told |= {what}
        warn_caller(f"{message} If this lam is meant, set classifier.lam = {self.lam:g}.", DefaultPointWarning)

    def _tell_of_attack(self) -> None:
        where = f"lam {self.lam:g}, the least robust of {self.model.lambdas}"
        self._tell("attacked", f"the classifier is attacked at {where}. Attack classifier.at(lam).")

    def _attacked(self) -> PinnedClassifier:
        """Return the view at the default point for what attacks ask of it."""
        self._tell_of_attack()
        return self.at()

    def set_params(self, **kwargs: Any) -> None:
        """Set parameters; see ``PyTorchClassifier``. All of ``get_params()`` together do not count as naming lam.

        Raises:
            ValueError: If ``model`` is another than the one it has.
        """
        is_taken_over = kwargs.keys() >= set(self.estimator_params) - {"model", "optimizer"}
        with self._lam_as_named() if is_taken_over and kwargs["lam"] == self.lam else nullcontext():
            super().set_params(**kwargs)

    def at(self, lam: float | None = None, width: float | None = None) -> PinnedClassifier:
        """Return this classifier at one operating point, as an ordinary ART classifier that follows training.

        Args:
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; None for the default.
            width: One of the trained widths; None for the default.

        Raises:
            TypeError: If either is not one number.
            ValueError: If the point is not one of the model's.
        """
        return PinnedClassifier(
            self.model.pinned(self.model.point(lam, width)),
            copy.deepcopy(self._loss),  # ART changes its reduction for a while
            self.input_shape,
            self.nb_classes,
            channels_first=self.channels_first,
            clip_values=self.clip_values,
            preprocessing_defences=self.preprocessing_defences,
            postprocessing_defences=self.postprocessing_defences,
            preprocessing=self.preprocessing,
            device_type=self.device_type,
        )

    def clone_for_refitting(self) -> OATClassifier:
        """Return a classifier of the same architecture and parameters, with weights to be trained anew.

        Its optimizer is of the same kind with the same defaults; parameter groups are not taken over.

        Raises:
            ValueError: If there is no optimizer.
        """
        if self._optimizer is None:
            raise ValueError("optimizer must be given for a clone to be refitted, got None.")
        model, kind = copy.deepcopy(self.model), type(self._optimizer)
        accepted = inspect.signature(kind).parameters  # AdamW keeps defaults that it does not take
        options = {name: value for name, value in self._optimizer.defaults.items() if name in accepted}
        clone = type(self)(
            model,
            self._loss,
            self.input_shape,
            self.nb_classes,
            kind(model.parameters(), **options),
            device_type=self.device_type,
        )
        clone.reset()
        params = self.get_params()
        clone.set_params(**{name: value for name, value in params.items() if name not in ("model", "optimizer")})
        return clone

    def predict(
        self,
        x: Array,
        batch_size: int = 128,
        training_mode: bool = False,
        *,
        lam: float | ArrayLike | None = None,
        width: float | None = None,
        **ignored: Any,
    ) -> NDArray[np.float32]:
        """Return scores at one operating point, or at one lam per sample.

        Args:
            x: Inputs, ``(N, *input_shape)``, finite.
            batch_size: How many samples go through the network at once.
            training_mode: Predict by the conditional network in training mode; as in ART, that moves its statistics.
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; or ``(N,)`` with one per sample. None for
                the default.
            width: One of the trained widths; None for the default.
            **ignored: ``logits``, ``y``, ``verbose``, ``raw``, ``standardise_output``, which parts of ART pass.

        Returns:
            Scores ``(N, K)``.

        Raises:
            TypeError: If a keyword is unknown.
            ValueError: If ``x``, ``lam`` or ``width`` is not as above.
        """
        if unknown := ignored.keys() - _IGNORED_BY_ART:
            raise TypeError(f"predict takes lam and width as keywords, got {', '.join(sorted(unknown))}.")
        refuse([*input_faults(x, self.input_shape), *count_faults({"batch_size": batch_size})])
        if lam is None or np.ndim(lam) == 0:
            number: Any = lam.item() if isinstance(lam, np.ndarray | Tensor) else lam
            point = self.model.point(number, width)
            run = self._run_at(point, is_conditional=training_mode)
        else:
            width = self.model.point(None, width).width
            run = self._run_at_each(_as_lams(lam, self.model, len(x)), width, is_conditional=training_mode)
        return self._predict(x, batch_size, run)

    def _run_at(self, point: OperatingPoint, *, is_conditional: bool) -> Run:
        """How a batch is answered at one point."""
        if is_conditional:
            self.model.train()
            return lambda batch, _: self.model(batch, *point)
        pinned = self.model.pinned(point)
        return lambda batch, _: pinned(batch)

    def _run_at_each(self, lams: Tensor, width: float, *, is_conditional: bool) -> Run:
        """How a batch is answered at one lam per sample."""
        if is_conditional:
            self.model.train()
            return lambda batch, index: self.model(batch, lams[index], width)
        live = self.model.live_network(width)

        def run(batch: Tensor, index: slice) -> Tensor:
            live.set_lam(lams[index])
            scores: Tensor = live(batch)
            return scores

        return run

    def fit(self, x: Array, y: Array, *args: Any, **kwargs: Any) -> None:
        """Train on ``x`` at the default operating point, as ``PyTorchClassifier.fit`` does; ``OATTrainer`` trains all.

        Afterwards the network is in evaluation mode, so that ``model(x)`` answers as :meth:`predict` does.

        Args:
            x: Inputs, ``(N, *input_shape)``, finite.
            y: Class indices ``(N,)``, one-hot labels or class probabilities ``(N, K)``.
            *args: ``batch_size``, ``nb_epochs``, ... as in ART.
            **kwargs: As in ART, which ignores unknown ones.

        Raises:
            ValueError: If ``x`` or ``y`` is not as above; names every fault.
        """
        refuse([*input_faults(x, self.input_shape), *label_faults(y, len(x), self.nb_classes, takes_soft=True)])
        self._tell_of_training()
        try:
            super().fit(x, y, *args, **kwargs)
        finally:
            self.model.eval()

    def fit_generator(self, generator: Any, *args: Any, **kwargs: Any) -> None:
        """Train on the batches of an ART ``DataGenerator`` at the default operating point, as :meth:`fit` does."""
        self._tell_of_training()
        try:
            super().fit_generator(generator, *args, **kwargs)
        finally:
            self.model.eval()

    def _tell_of_training(self) -> None:
        self._tell(
            "trained",
            f"fit trains the network at lam {self.lam:g} alone, of {self.model.lambdas}. OATTrainer trains them all.",
        )

    # ART runs these on the network in training form, and changes its mode and gradients. At the default point the
    # pinned network gives the same numbers and leaves both alone.

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradient of the loss to ``x``, at the default point; see ``PyTorchClassifier``."""
        self._tell_of_attack()
        if training_mode:
            return super().loss_gradient(x, y, training_mode, **kwargs)
        return self.at().loss_gradient(x, y, **kwargs)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradients of the scores to ``x``, at the default point; see ``PyTorchClassifier``."""
        self._tell_of_attack()
        if training_mode:
            return super().class_gradient(x, label, training_mode, **kwargs)
        return self.at().class_gradient(x, label, **kwargs)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """Return the loss at the default point; see ``PyTorchClassifier``."""
        return self._attacked().compute_loss(x, y, reduction, **kwargs)

    def custom_loss_gradient(self, loss_fn: Any, x: Any, y: Any, layer_name: Any, training_mode: bool = False) -> Any:
        """Return the gradient of a loss between activations, at the default point; see ``PyTorchClassifier``."""
        return self._attacked().custom_loss_gradient(loss_fn, x, y, layer_name, training_mode)

    def get_activations(self, x: Any, layer: Any = None, batch_size: int = 128, framework: bool = False) -> Any:
        """Return the output of a layer at the default point; see ``PyTorchClassifier``."""
        return self.at().get_activations(x, layer, batch_size, framework)

    def _predict_framework(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self._attacked()._predict_framework(x, y)
