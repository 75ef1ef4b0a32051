"""Classifiers that ship a point, with their preprocessing, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import Tensor, nn

from art_oat.checks import as_array, class_indices, refusals, refuse
from art_oat.classifier.default_point import DefaultPointClassifier
from art_oat.classifier.fit_data import data_faults
from art_oat.classifier.preprocessing import as_modules, effective
from art_oat.export import Exported, Shipment, export_faults, ship
from art_oat.levels import as_floats
from art_oat.numbers import KindFault, flag_faults, shown
from art_oat.surgery import fold


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
        """Ship one operating point as a file, run again and compared with the folded network before it is there.

        It takes ``x``, ``[N, *input_shape]``, and gives ``logits``, ``[N, K]``, both float32, for any ``N``.

        Args:
            path: Of the file; an older one is replaced.
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; None for the default.
            width: One of the trained widths; None for the default.
            format: ``"onnx"``, ``"torch.export"``, ``"torchscript"`` or ``"safetensors"`` (weights alone); None for
                that of the suffix, ``.onnx``, ``.pt2``, ``.pt`` or ``.ts``, ``.safetensors``.
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
        operations, faults = self._operations(preprocessing)
        asked = export_faults(path, format, precision, has_data=data is not None, has_preprocessing=bool(operations))
        refuse([*refusals(lambda: self.model.point(lam, width)), *asked, *faults, *self._data_faults(data)])
        if lam is None:
            where = f"lam {self.lam:g}, the least robust of {self.model.lambdas}"
            self._tell("exported", f"what is exported answers at {where}. Name it: export(path, lam=...).")
        point = self.model.point(lam, width)
        shipment = self._shipment(fold(self.model, point), point.lam, point.width, operations)
        tensors = None if data is None else self._measured(*data, is_preprocessed=not preprocessing)
        return ship(shipment, path, format=format, precision=precision, data=tensors)

    def _operations(self, preprocessing: Any) -> tuple[list[nn.Module], list[str]]:
        """Return what comes before the network in the file, and why it cannot."""
        if faults := flag_faults({"preprocessing": preprocessing}):
            return [], faults
        used = self._used_operations() if preprocessing else []
        faults = refusals(lambda: as_modules(used, self.input_shape))
        return ([] if faults else as_modules(used, self.input_shape)), faults

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
            facts={"preprocessing": preprocessing, "nb_classes": self.nb_classes},
        )

    def _measured(self, x: Any, y: Any, *, is_preprocessed: bool) -> tuple[Tensor, Tensor]:
        """Return checked data as a file takes it."""
        inputs = as_floats(as_array(x), self.clip_values)
        if is_preprocessed:
            inputs, _ = self._apply_preprocessing(inputs, y=None, fit=False)
        indices = torch.from_numpy(class_indices(as_array(y, "y"), self.nb_classes))
        return torch.as_tensor(inputs).float(), indices
