"""Classifiers that ship a point, with their preprocessing, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import Tensor, nn

from art_oat.checks import as_array, class_indices, refusals, refuse
from art_oat.classifier.default_point import DefaultPointClassifier
from art_oat.classifier.fit_data import data_faults
from art_oat.classifier.preprocessing import as_modules, effective
from art_oat.export import Exported, Shipment, dial_network, export_faults, ship
from art_oat.levels import as_floats
from art_oat.numbers import KindFault, flag_faults, shown
from art_oat.surgery import fold


@dataclass(frozen=True)
class _Order:
    """What is asked of a file, beside its point."""

    path: str | PathLike[str]
    format: str | None
    precision: str
    preprocessing: bool
    data: Any


class ExportingClassifier(DefaultPointClassifier):
    """A classifier that ships what it predicts with as a file."""

    def export(
        self,
        path: str | PathLike[str],
        *,
        lam: float | None = None,
        width: float | None = None,
        format: str | None = None,  # noqa: A002 - as torch and ONNX have it
        precision: str = "float32",
        preprocessing: bool = True,
        data: Any = None,
    ) -> Exported:
        """Ship one operating point as a file, which is run and compared with the folded network before it is there.

        It takes ``x``, ``[N, *input_shape]``, and gives ``logits``, ``[N, K]``, both float32, for any ``N``.

        Args:
            path: Of the file; an older one is replaced.
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; None for the default.
            width: One of the trained widths; None for the default.
            format: ``"onnx"``, ``"torch.export"``, ``"torchscript"`` or ``"safetensors"`` (weights alone); None for
                that of the suffix: ``.onnx``, ``.pt2``, ``.pt``, ``.safetensors``.
            precision: Of weights and layers: ``"float32"``, ``"float16"``, or ``"int8"``, for ONNX alone.
            preprocessing: Whether the file takes what the classifier takes, or what its network takes.
            data: ``(x, y)`` to measure accuracy on, before and after. int8 takes ranges of activations from it, too.

        Raises:
            ExportError: If the network cannot be written so, or its file answers otherwise; nothing is written.
            ImportError: If a package for the format is missing.
            OSError: If the file cannot be written.
            TypeError: If an argument is of another kind.
            ValueError: If one is not as above; names every fault.
        """
        order = _Order(path, format, precision, preprocessing, data)
        refuse([*refusals(lambda: self.model.point(lam, width)), *self._order_faults(order)])
        self._tell_of_export(lam)
        point = self.model.point(lam, width)
        return self._ship(order, fold(self.model, point), point.lam, point.width)

    def export_dial(
        self,
        path: str | PathLike[str],
        *,
        width: float | None = None,
        format: str | None = None,  # noqa: A002 - as torch and ONNX have it
        preprocessing: bool = True,
    ) -> Exported:
        """Ship every lam as one file, which is run at trained lams and between them before it is there.

        It takes ``x``, ``[N, *input_shape]``, and ``lam``, ``[N]``, and gives ``logits``, ``[N, K]``, all float32, for
        any ``N``. A lam outside of the range of the dial counts as its nearest end.

        Args:
            path: Of the file; an older one is replaced.
            width: One of the trained widths; None for the default.
            format: ``"onnx"``, ``"torch.export"`` or ``"torchscript"``; None for that of the suffix.
            preprocessing: Whether the file takes what the classifier takes, or what its network takes.

        Raises:
            ExportError: If the network cannot be written so, or its file answers otherwise; nothing is written.
            ImportError: If a package for the format is missing.
            OSError: If the file cannot be written.
            TypeError: If an argument is of another kind.
            UnsupportedModuleError: If a layer is not known to be linear between trained lams.
            ValueError: If an argument is not as above, which names every fault; or only one lam is trained.
        """
        order = _Order(path, format, "float32", preprocessing, None)
        refuse([*refusals(lambda: self.model.point(None, width)), *self._order_faults(order, is_dial=True)])
        network = dial_network(self.model, width)
        return self._ship(order, network, None, self.model.point(None, width).width)

    def _order_faults(self, order: _Order, *, is_dial: bool = False) -> list[str]:
        flags = flag_faults({"preprocessing": order.preprocessing})
        used = self._used_operations() if not flags and order.preprocessing else []
        asked = export_faults(
            order.path,
            order.format,
            order.precision,
            has_data=order.data is not None,
            is_dial=is_dial,
            has_preprocessing=bool(used),
        )
        return [*flags, *asked, *refusals(lambda: as_modules(used, self.input_shape)), *self._data_faults(order.data)]

    def _tell_of_export(self, lam: float | None) -> None:
        if lam is None:
            where = f"lam {self.lam:g}, the least robust of {self.model.lambdas}"
            self._tell("exported", f"what is exported answers at {where}. Name it: export(path, lam=...).")

    def _ship(self, order: _Order, network: nn.Module, lam: float | None, width: float) -> Exported:
        """Ship a network by a checked order."""
        steps = as_modules(self._used_operations(), self.input_shape) if order.preprocessing else []
        data = None if order.data is None else self._measured(*order.data, is_preprocessed=not order.preprocessing)
        shipment = self._shipment(network, lam, width, steps)
        return ship(shipment, order.path, format=order.format, precision=order.precision, data=data)

    def _used_operations(self) -> list[Preprocessor]:
        return effective([it for it in self.preprocessing_operations if it.apply_predict])

    def _data_faults(self, data: Any) -> list[str]:
        if data is None:
            return []
        if not (isinstance(data, Sequence) and not isinstance(data, str) and len(data) == 2):  # noqa: PLR2004
            return [KindFault(f"data must be inputs and labels, (x, y), got {shown(data)}.")]
        x, y = data
        kinds = refusals(lambda: as_array(x, "x"), lambda: as_array(y, "y"))
        return kinds or data_faults(self, as_array(x, "x"), as_array(y, "y"))

    def _shipment(
        self, network: nn.Module, lam: float | None, width: float, operations: Sequence[nn.Module]
    ) -> Shipment:
        is_left_out = bool(self._used_operations()) and not operations
        preprocessing = "left out" if is_left_out else "included" if operations else "none"
        return Shipment(
            network.cpu(),
            lam,
            width,
            self.input_shape,
            self.model.lambdas,
            clip_values=None if is_left_out else self.clip_values,  # which say nothing of what the network takes
            preprocessing=operations,
            facts={"preprocessing": preprocessing, "nb_classes": self.nb_classes, "farthest": self.model.farthest},
        )

    def _measured(self, x: Any, y: Any, *, is_preprocessed: bool) -> tuple[Tensor, Tensor]:
        """Return checked data as a file takes it."""
        inputs = as_floats(as_array(x), self.clip_values)
        if is_preprocessed:
            inputs, _ = self._apply_preprocessing(inputs, y=None, fit=False)
        indices = torch.from_numpy(class_indices(as_array(y, "y"), self.nb_classes))
        return torch.as_tensor(inputs).float(), indices
