"""The layout of inputs: in memory for the network, and in the order of their axes for an augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from art_oat.checks import as_array, input_faults, range_faults, refuse
from art_oat.classifier import OATClassifier
from art_oat.model import OATModel
from art_oat.rebuild import has_channels_last, laid_out
from art_oat.training.method import Augmentation

_FEWEST_INPUTS = 16


class InputLayout:
    """Lays inputs out as a classifier's network wants them."""

    def __init__(self, classifier: OATClassifier) -> None:
        self.classifier = classifier
        # inputs with channels last in their shape are laid out so already
        self._is_channels_last = classifier.channels_first and _has_channels_last(classifier.model)
        self._is_augmentation_checked = False

    def arranged(self, x: Tensor) -> Tensor:
        """Lay images out in memory as the network's weights are."""
        return laid_out(x, channels_last=self._is_channels_last)

    def augmented(self, x: Tensor, augmentation: Augmentation | None, generator: torch.Generator) -> Tensor:
        """Augment inputs ``[N, ...]``, with channels first; the first result is checked.

        Raises:
            ValueError: If it is of another shape or dtype, or leaves the clip range.
        """
        if augmentation is None:
            return x
        has_channels_behind = not self.classifier.channels_first and x.dim() > 2  # noqa: PLR2004 - N, F
        result = augmentation(x.movedim(-1, 1) if has_channels_behind else x, generator)
        if has_channels_behind and isinstance(result, Tensor) and result.dim() == x.dim():
            result = result.movedim(1, -1)
        if not self._is_augmentation_checked:
            refuse(_augmentation_faults(result, x, self.classifier.clip_values))
            self._is_augmentation_checked = True
        return result


def layout_faults(model: OATModel) -> list[str]:
    """Say which layers cannot be trained with channels last on a processor.

    torch's convolutions there (oneDNN, its issue 6035) write past a buffer for the gradient of a strided 1x1 weight
    that takes few channels: the process dies, or learns from garbage.
    """
    if model.encoding.table.device.type != "cpu" or not _has_channels_last(model):
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
    if not names:
        return []
    return [
        f"the network must not lie with channels last: on a processor, torch does not train {', '.join(names)} right, "
        f"strided and 1x1 on fewer than {_FEWEST_INPUTS} channels. Take the other way, torch.contiguous_format."
    ]


def _inputs(layer: nn.Conv2d) -> list[int]:
    """How many channels a convolution takes, at each of its widths."""
    sizes = getattr(layer, "_slim_channels", None)
    return [layer.in_channels] if sizes is None else [size.inputs for size in sizes.values()]


def _has_channels_last(model: OATModel) -> bool:
    """Whether a weight has channels last, and lies in no other way too."""
    return any(has_channels_last(weight) for weight in model.parameters())


def _augmentation_faults(result: Any, x: Tensor, clip_values: Any) -> list[str]:
    if not isinstance(result, Tensor) or (result.shape, result.dtype) != (x.shape, x.dtype):
        got = f"{list(result.shape)} of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
        return [f"augmentation must return a tensor {list(x.shape)} of {x.dtype}, as it was given, got {got}."]
    name = "the result of augmentation"
    values = as_array(result.double(), name)
    return input_faults(values, tuple(x.shape[1:]), name) or range_faults(values, clip_values, name)
