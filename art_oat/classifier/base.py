"""What the classifiers of conditional and of pinned networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.utils import check_and_transform_label_format
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat.checks import (
    Array,
    as_array,
    class_indices,
    is_non_finite,
    label_faults,
    refuse,
    shape_faults,
    target_faults,
    warn_caller,
)
from art_oat.classifier.fit_data import art_labels
from art_oat.classifier.preprocessing import PreprocessedNetwork
from art_oat.levels import Inputs, Levels, are_levels, as_floats, level_faults
from art_oat.numbers import KindFault, count_faults, is_whole, plain, shown
from art_oat.threads import Places, nb_cores

_PLACES = Places(nb_cores())
_NB_NAMED = 10
_DIFFERENTIABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Run = Callable[[Tensor, slice], Tensor]
"""Answers a batch, given which of the samples it holds."""


def kept_tensors(classifier: PyTorchClassifier, x: Array, y: Array, like: Tensor) -> tuple[Inputs, Tensor]:
    """Bring checked inputs and labels to the device of a tensor, to be taken in parts.

    Labels become class indices ``[N]``, and inputs get the dtype of the tensor; levels stay bytes, and get it as they
    are taken. What rounding leaves outside the clip values is cut off, so that no attack moves it.
    """
    given = torch.as_tensor(as_array(x, "x"))
    indices = torch.from_numpy(class_indices(as_array(y, "y"), classifier.nb_classes)).to(like.device)
    if (levels := Levels.of(given, classifier.clip_values, like)) is not None:
        return levels, indices
    inputs = given.to(like)
    if classifier.clip_values is not None:
        low, high = (torch.as_tensor(value).to(like) for value in classifier.clip_values)
        if bool(((inputs < low) | (inputs > high)).any()):  # else all of them would be copied for nothing
            inputs = inputs.clamp(low, high)
    return inputs, indices


def data_tensors(classifier: PyTorchClassifier, x: Array, y: Array, like: Tensor) -> tuple[Tensor, Tensor]:
    """Bring checked inputs and labels to the dtype and device of a tensor, all at once; see :func:`kept_tensors`."""
    inputs, indices = kept_tensors(classifier, x, y, like)
    return inputs[:], indices


class NonFiniteWarning(UserWarning):
    """Some of the samples to predict hold NaN or infinity, and so have no scores."""


class DarkLevelsWarning(UserWarning):
    """Inputs of dtype uint8 to predict are nearly black, as images of 0 and 1 are where k stands for k / 255."""


class _Unfiltered(type(PyTorchClassifier)):  # type: ignore[misc]
    """ART's metaclass without its filter, which makes arrays of what ``predict`` and ``fit`` are given, or fails."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        type.__init__(cls, name, bases, namespace)


class PointClassifier(PyTorchClassifier, metaclass=_Unfiltered):
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
        refuse(parameter_faults(kwargs))
        before = dict(vars(self))
        try:
            super().set_params(**{name: plain(value) for name, value in kwargs.items()})
        except Exception:
            self.__dict__.update(before)  # ART checks after it has set
            raise

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

    def _checked(self, x: Any, **counts: Any) -> Array:
        """Return inputs as an array; refuse those of another shape or kind, and counts that are none."""
        array = as_array(x, "x")
        refuse([*shape_faults(array, self.input_shape), *count_faults(counts)])
        for fault in level_faults(array, self.clip_values):
            warn_caller(fault, DarkLevelsWarning)  # one dark image may be one
        return array

    def _floating(self, x: Any) -> Any:
        """Return checked inputs as reals that can carry a gradient: tensors as tensors, all else as an array."""
        x = x if isinstance(x, Tensor) else as_array(x, "x")
        refuse([*shape_faults(x, self.input_shape), *level_faults(x, self.clip_values)])
        x = as_floats(x, self.clip_values)
        if isinstance(x, Tensor):
            return x if x.dtype in _DIFFERENTIABLE else x.float()
        return x if x.dtype.kind == "f" else x.astype(np.float32)

    def _targets(self, y: Any, x: Any) -> Array:
        """Return checked labels of inputs as an array."""
        array = as_array(y, "y")
        refuse(target_faults(array, len(x), self.nb_classes))
        return art_labels(array)

    def _predict(self, x: Array, batch_size: int, run: Run) -> NDArray[np.float32]:
        """Predict checked inputs in batches; ART's loader would draw from torch's global generator.

        Samples that are not finite have NaN scores; zeros stand in for them, so that nothing they meet spreads.
        """
        if (is_faulty := is_non_finite(x)).any():
            x = np.where(is_faulty.reshape(-1, *[1] * (x.ndim - 1)), np.zeros((), x.dtype), x)
        if are_levels(x, self.clip_values):
            preprocessed, run = x, self._of_levels(run)
        else:
            preprocessed, _ = self._apply_preprocessing(x, y=None, fit=False)
        scores = [np.empty((0, self.nb_classes), dtype=np.float32)]
        for start in range(0, len(x), batch_size):
            index = slice(start, start + batch_size)
            scores.append(_PLACES.compute(partial(self._answer, preprocessed[index], index, run)))
        result: NDArray[np.float32] = self._apply_postprocessing(preds=np.vstack(scores), fit=False)
        if is_faulty.any():
            _tell_of_faulty(np.flatnonzero(is_faulty), len(x))
            result = np.array(result, dtype=np.float32)
            result[is_faulty] = np.nan
        return result

    @torch.no_grad()
    def _answer(self, x: Array, index: slice, run: Run) -> Array:
        """Return the scores of a batch, given which of the samples it holds."""
        return run(torch.from_numpy(x).to(self._device), index).float().cpu().numpy()

    def _of_levels(self, run: Run) -> Run:
        """Answer batches of levels, which are scaled and preprocessed where the network is."""
        like = torch.empty(0, dtype=torch.promote_types(self._dtype, torch.float32), device=self._device)
        preprocessed = self.preprocessed(nn.Identity())
        return lambda batch, index: run(preprocessed(Levels(batch, like)[:]), index)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradient of the loss to ``x``, a tensor for a tensor; see ``PyTorchClassifier``."""
        refuse_point(kwargs)
        inputs = self._floating(x)
        targets = self._targets(y, inputs)
        if not self.all_framework_preprocessing:
            return _like(super().loss_gradient(as_array(inputs, "x"), targets, training_mode, **kwargs), x)
        return super().loss_gradient(inputs, _like(targets, x), training_mode, **kwargs)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradients of the scores to ``x``, a tensor for a tensor; see ``PyTorchClassifier``."""
        refuse_point(kwargs)
        inputs = as_array(self._floating(x), "x")
        return _like(super().class_gradient(inputs, self._label(label, len(inputs)), training_mode, **kwargs), x)

    def _label(self, label: Any, nb_samples: int) -> Any:
        """Return a checked class to differentiate, or one per sample, or None for all."""
        label = plain(label)
        if label is None or is_whole(label):
            refuse(count_faults({"label": label}, least=0) if label is not None else [])
            return label
        array = as_array(label, "label")
        refuse(
            label_faults(array, nb_samples, self.nb_classes, "label")
            if array.ndim == 1
            else [f"label must be None, a class or one per sample, got {shown(label)}."]
        )
        return class_indices(array, self.nb_classes)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """Return the loss, a tensor for a tensor; see ``PyTorchClassifier``."""
        refuse_point(kwargs)
        inputs = self._floating(x)
        one_hot = _like(check_and_transform_label_format(self._targets(y, inputs), self.nb_classes), x)
        return super().compute_loss(inputs, one_hot, reduction, **kwargs)

    def custom_loss_gradient(self, loss_fn: Any, x: Any, y: Any, layer_name: Any, training_mode: bool = False) -> Any:
        """Return the gradient of a loss between activations, a tensor for a tensor; see ``PyTorchClassifier``."""
        inputs, targets = (as_array(self._floating(it), "x") for it in (x, y))
        return _like(super().custom_loss_gradient(loss_fn, inputs, targets, layer_name, training_mode), x)

    def get_activations(self, x: Any, layer: Any = None, batch_size: int = 128, framework: bool = False) -> Any:
        """Return the output of a layer; see ``PyTorchClassifier``, whose hooks would stay on the shared network.

        Raises:
            ValueError: If no layer has that name.
        """
        inputs, layer = self._floating(x), self._layer_index(layer)
        refuse(count_faults({"batch_size": batch_size}))
        modules = list(self.model.modules())
        before = [set(module._forward_hooks) for module in modules]
        try:
            return super().get_activations(inputs, layer, plain(batch_size), framework)
        finally:
            self.__dict__.pop("_features", None)
            for module, known in zip(modules, before, strict=True):
                for handle in set(module._forward_hooks) - known:
                    del module._forward_hooks[handle]

    def _layer_index(self, layer: Any) -> int:
        names = self.layer_names
        if isinstance(layer, str) and layer.removeprefix("network.") in names:
            return names.index(layer.removeprefix("network."))
        index = plain(layer)
        if is_whole(index) and -len(names) <= index < len(names):
            return int(index)
        raise ValueError(f"layer must be one of {', '.join(names)}, or an index, got {shown(layer)}.")

    def preprocessed(self, network: nn.Module, *, is_training: bool = False) -> PreprocessedNetwork:
        """Put this classifier's preprocessing before a network, for tensors, with gradients.

        Args:
            network: Any network that takes what this classifier's network takes.
            is_training: Take the operations that apply in training instead of those that apply in prediction.
        """
        operations = self.preprocessing_operations
        used = [it for it in operations if (it.apply_fit if is_training else it.apply_predict)]
        return PreprocessedNetwork(network, used, channels_first=self.channels_first)


def parameter_faults(given: Mapping[str, Any]) -> list[str]:
    """Say which parameters of a classifier, by name, ART would fail on without naming them."""
    faults = count_faults({"nb_classes": given["nb_classes"]}, least=2) if "nb_classes" in given else []
    if not isinstance(given.get("optimizer"), torch.optim.Optimizer | None):
        faults.append(KindFault(f"optimizer must be one of torch, or None, got {shown(given['optimizer'])}."))
    if "loss" in given and (not callable(given["loss"]) or isinstance(given["loss"], type)):
        faults.append(KindFault(f"loss must be a function of scores and labels, got {shown(given['loss'])}."))
    clip_values = given.get("clip_values")
    if clip_values is not None and not (np.iterable(clip_values) and len(list(clip_values)) == 2):  # noqa: PLR2004
        faults.append(f"clip_values must be two numbers, or two arrays that fit one sample, got {shown(clip_values)}.")
    return faults


def refuse_point(keywords: dict[str, Any]) -> None:
    """Refuse a point that ART would ignore, to answer at another one."""
    if asked := keywords.keys() & {"lam", "width"}:
        names = " or ".join(sorted(asked))
        raise TypeError(f"this works at one operating point and takes no {names}. Use at(lam, width).")


def _tell_of_faulty(index: NDArray[np.int64], nb_samples: int) -> None:
    named = ", ".join(map(str, index[:_NB_NAMED])) + (", ..." if len(index) > _NB_NAMED else "")
    message = f"x holds NaN or infinity in {len(index)} of {nb_samples} samples ({named}), whose scores are NaN."
    warn_caller(message, NonFiniteWarning)


def _like(result: Any, x: Any) -> Any:
    """Return an array as what ``x`` is, a tensor on its device or an array."""
    return torch.as_tensor(result, device=x.device) if isinstance(x, Tensor) else result
