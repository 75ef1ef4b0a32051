"""Which weights decay: parameter groups for an optimizer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from art_oat.checks import refuse
from art_oat.condition import is_finite_number
from art_oat.layers import ConditionalLayer, FiLM

ParameterKind = Literal["norm", "film", "bias"]

_NORMS = (ConditionalLayer, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module, weight_decay: float, *, exempt: Collection[ParameterKind] = ("norm", "film", "bias")
) -> list[dict[str, Any]]:
    """Return the trainable parameters as groups for an optimizer of torch: those that decay, and those that do not.

    Every trainable parameter is in exactly one group, a frozen one in none. A tied one does not decay if any of its
    places is exempt. There are no empty groups.

    Args:
        model: A conditional network, or a plain one.
        weight_decay: At least 0; the ``weight_decay`` of the first group.
        exempt: What does not decay. ``"norm"``: affine weights of norms; ``"film"``: weights and biases of FiLM;
            ``"bias"``: biases of all other layers.

    Raises:
        ValueError: If ``weight_decay`` or ``exempt`` is not as above, or no parameter is trainable; names every fault.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), 5e-4)
        >>> [(group["weight_decay"], len(group["params"])) for group in groups]
        [(0.0005, 1), (0.0, 3)]
    """
    kinds: dict[Tensor, set[str]] = {}
    for parameter, kind in _places(model, is_norm=False):
        kinds.setdefault(parameter, set()).add(kind)
    refuse(_faults(weight_decay, exempt, nb_trainable=len(kinds)))
    decayed = [parameter for parameter, found in kinds.items() if not found & set(exempt)]
    spared = [parameter for parameter, found in kinds.items() if found & set(exempt)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _faults(weight_decay: float, exempt: Collection[ParameterKind], nb_trainable: int) -> list[str]:
    faults = []
    if not (is_finite_number(weight_decay) and weight_decay >= 0):
        faults.append(f"weight_decay must be a number of at least 0, got {weight_decay!r}.")
    if isinstance(exempt, str) or not set(exempt) <= set(get_args(ParameterKind)):
        faults.append(f"exempt must be a collection of some of {get_args(ParameterKind)}, got {exempt!r}.")
    if not nb_trainable:
        faults.append("model must hold trainable parameters, got none: all are frozen.")
    return faults


def _places(module: nn.Module, *, is_norm: bool) -> Iterator[tuple[nn.Parameter, str]]:
    """Every place of a trainable parameter, with its kind; all that a norm holds is norm, but for FiLM."""
    if isinstance(module, FiLM):
        yield from ((parameter, "film") for parameter in module.parameters() if parameter.requires_grad)
        return
    is_norm = is_norm or isinstance(module, _NORMS)
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if parameter.requires_grad:
            yield parameter, "norm" if is_norm else "bias" if name.endswith("bias") else "weight"
    for child in module.children():
        yield from _places(child, is_norm=is_norm)
