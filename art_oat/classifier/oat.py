"""The classifier of a conditional network, whose robustness and cost are chosen at prediction time."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from art_oat.checks import Array, as_array, input_faults, refuse
from art_oat.classifier.base import Run, data_tensors, kept_tensors, parameter_faults
from art_oat.classifier.device import check_device
from art_oat.classifier.exporting import ExportingClassifier
from art_oat.classifier.fit_data import data_faults
from art_oat.condition import OperatingPoint
from art_oat.levels import Inputs
from art_oat.model import OATModel
from art_oat.network_kinds import check_model
from art_oat.numbers import is_number, plain, plain_sizes, sizes_faults
from art_oat.surgery import fold
from art_oat.surgery.convert_check import try_out

_IGNORED_BY_ART = {"logits", "y", "verbose", "raw", "standardise_output"}
"""Keywords that parts of ART pass to ``predict`` and rely on being ignored."""


class OATClassifier(ExportingClassifier):
    """An ART classifier whose robustness (and cost) is chosen at prediction time.

    It keeps the parameter order and every method of ``PyTorchClassifier``. What names no operating point
    (``loss_gradient``, ``class_gradient``, ``fit``, ...) works at the default one, ``lam`` and ``width``.

    Accuracy has a default, robustness has none: ``predict`` answers at the default point, and
    :func:`~art_oat.evaluate` asks for a lam. Until ``lam`` is set, attacks and ``fit`` warn once
    (:class:`DefaultPointWarning`) that they work at the least robust point, unless only one lam is trained.

    Args:
        model: A conditional network, from ``to_conditional``.
        loss: What ART's attacks differentiate; ``OATTrainer`` asks for a ``CrossEntropyLoss``.
        input_shape: Shape of one sample, such as ``(3, 32, 32)``.
        nb_classes: ``K``, at least 2.
        optimizer: Holds parameters of ``model`` (of the converted network, not of the one it was made from); needed
            for training only.
        use_amp: As in ``PyTorchClassifier``, like all that follow but the last.
        device_type: ``"cpu"``; ``"gpu"``, with a warning where there is none; or ``"auto"``, a GPU where torch sees
            one. Which it is stands in ``classifier.device``.

    Raises:
        TypeError: If ``model`` is not an ``OATModel``.
        ValueError: If ``device_type`` is not as above, ``optimizer`` holds no parameter of ``model``, or the network
            does not map ``input_shape`` to ``nb_classes`` scores; names every fault.
    """

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
        device_type: str = "auto",
    ) -> None:
        check_model(model)
        check_device(device_type)
        given = {"nb_classes": nb_classes, "optimizer": optimizer, "loss": loss, "clip_values": clip_values}
        refuse(sizes_faults({"input_shape": input_shape}) + parameter_faults(given))
        super().__init__(
            model,
            loss,
            plain_sizes(input_shape),
            plain(nb_classes),
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

    def kept_tensors(self, x: Array, y: Array) -> tuple[Inputs, Tensor]:
        """Bring checked data to the network's device, levels as bytes; see :func:`kept_tensors`."""
        return kept_tensors(self, x, y, self.model.encoding.table)

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
        parts = model, self._loss, self.input_shape, self.nb_classes, kind(model.parameters(), **options)
        clone = type(self)(*parts, device_type=self.device_type)
        clone.reset()
        params = self.get_params()
        clone.set_params(**{name: value for name, value in params.items() if name not in ("model", "optimizer")})
        return clone

    def snapshot(self) -> OATClassifier:
        """Return a classifier of its own with the weights of now, to answer and be attacked while this one is trained.

        Everything else follows a training at once, :meth:`predict` and :meth:`at` too, and may answer in the middle of
        a step. An :class:`~art_oat.OATTrainer` in another thread finishes its step first; while it measures, the
        weights of now are their average, if it keeps one. Whatever else trains must stand still. A snapshot has no
        optimizer, and is not trained.
        """
        with self.model.writing:
            state = copy.deepcopy(self.__getstate__() | {"_optimizer": None})
        taken = type(self).__new__(type(self))
        taken.__setstate__(state)
        taken.model.eval().requires_grad_(False)
        return taken

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
        """Return scores ``(N, K)`` at one operating point, or at one lam per sample.

        Args:
            x: Inputs, ``(N, *input_shape)``; uint8 is as in :mod:`art_oat.levels`, and scaled batch by batch on the
                device. A sample that holds NaN or infinity has NaN scores, and a :class:`NonFiniteWarning` names it;
                all others are answered as without it.
            batch_size: How many samples go through the network at once.
            training_mode: Predict by the conditional network in training mode; as in ART, that moves its statistics,
                and so takes finite samples alone.
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; or ``(N,)``; None for the default.
            width: One of the trained widths; None for the default.
            **ignored: ``logits``, ``y``, ``verbose``, ``raw``, ``standardise_output``, which parts of ART pass.

        Raises:
            TypeError: If a keyword is unknown, or an argument of another kind.
            ValueError: If an argument is not as above.
        """
        if unknown := ignored.keys() - _IGNORED_BY_ART:
            raise TypeError(f"predict takes lam and width as keywords, got {', '.join(sorted(unknown))}.")
        x = self._checked(x, batch_size=batch_size)
        refuse(input_faults(x, self.input_shape) if training_mode else [])
        lams = None if lam is None or isinstance(lam, str) or is_number(lam) else as_array(lam, "lam")
        if lams is None or not lams.ndim:
            run = self._run_at(self.model.point(lam, width), training_mode)  # type: ignore[arg-type]
        else:
            width = self.model.point(None, width).width
            run = self._run_at_each(_as_lams(lams, self.model, len(x)), width, training_mode)
        return self._predict(x, plain(batch_size), run)

    def _run_at(self, point: OperatingPoint, is_training: bool) -> Run:
        """How a batch is answered at one point."""
        if is_training:
            self.model.train()
            return lambda batch, _: self.model(batch, *point)
        pinned = self.model.pinned(point)
        return lambda batch, _: pinned(batch)

    def _run_at_each(self, lams: Tensor, width: float, is_training: bool) -> Run:
        """How a batch is answered at one lam per sample."""
        if is_training:
            self.model.train()
            return lambda batch, index: self.model(batch, lams[index], width)
        live = self.model.live_network(width)

        def run(batch: Tensor, index: slice) -> Tensor:
            live.set_lam(lams[index])
            scores: Tensor = live(batch)
            return scores

        return run


def _as_lams(values: Array, model: OATModel, nb_samples: int) -> Tensor:
    if values.dtype.kind not in "fiu":
        raise TypeError(f"lam must be one number, or hold one per sample, got values of dtype {values.dtype}.")
    return model.lams(torch.from_numpy(values), nb_samples)
