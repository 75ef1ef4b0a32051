"""Which weights decay: parameter groups for an optimizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from art_oat.checks import refuse
from art_oat.layers import ConditionalLayer, FiLM, is_sample_norm
from art_oat.layers.conversion import conversion_of
from art_oat.numbers import is_name_in, number_faults, plain

ParameterKind = Literal["norm", "film", "bias", "embedding"]
ALL_KINDS: tuple[ParameterKind, ...] = get_args(ParameterKind)

_EMBEDDING = re.compile(r"tokens?$|pos(ition)?_?emb\w*$|position_bias_table$")
"""Class tokens, embeddings of positions, absolute and relative, as timm, torchvision and transformers call them."""


def parameter_groups(
    model: nn.Module, weight_decay: float, *, exempt: Collection[ParameterKind] = ALL_KINDS
) -> list[dict[str, Any]]:
    """Return the trainable parameters as groups for an optimizer of torch: those that decay, and those that do not.

    Every trainable parameter is in exactly one group, a frozen one in none. A tied one does not decay if any of its
    places is exempt. There are no empty groups.

    Args:
        model: A conditional network, or a plain one.
        weight_decay: At least 0; the ``weight_decay`` of the first group.
        exempt: What does not decay. ``"norm"``: affine weights of norms, of whatever class that can be converted;
            ``"film"``: weights and biases of FiLM; ``"bias"``: biases of all other layers, and whatever else is one
            vector, such as layer scales and slopes; ``"embedding"``: what a network's ``no_weight_decay()`` names, as
            timm's do, class tokens, and embeddings of positions, by their usual names.

    Raises:
        ValueError: If ``weight_decay`` or ``exempt`` is not as above, or no parameter is trainable; names every fault.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), 5e-4)
        >>> [(group["weight_decay"], len(group["params"])) for group in groups]
        [(0.0005, 1), (0.0, 3)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    kinds: dict[Tensor, set[str]] = {}
    for parameter, kind in _places(model, "", _named_by(model), is_norm=False):
        kinds.setdefault(parameter, set()).add(kind)
    refuse(_faults(weight_decay, exempt, nb_trainable=len(kinds)))
    decayed = [parameter for parameter, found in kinds.items() if not found & set(exempt)]
    spared = [parameter for parameter, found in kinds.items() if found & set(exempt)]
    groups = [{"params": decayed, "weight_decay": plain(weight_decay)}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _faults(weight_decay: float, exempt: Collection[ParameterKind], nb_trainable: int) -> list[str]:
    faults = number_faults({"weight_decay": weight_decay}, "be a number of at least 0", lambda it: it >= 0)
    is_known = isinstance(exempt, Collection) and all(is_name_in(kind, ALL_KINDS) for kind in exempt)
    if isinstance(exempt, str) or not is_known:
        faults.append(f"exempt must be a collection of some of {ALL_KINDS}, got {exempt!r}.")
    if not nb_trainable:
        faults.append("model must hold trainable parameters, got none: all are frozen.")
    return faults


def _named_by(model: nn.Module) -> set[str]:
    """Paths of the parameters that networks within a model want to be spared, as timm's say."""
    found = set()
    for path, module in model.named_modules():
        names = getattr(module, "no_weight_decay", None)
        found |= {_joined(path, name) for name in names()} if callable(names) else set()
    return found


def _places(module: nn.Module, path: str, named: set[str], *, is_norm: bool) -> Iterator[tuple[nn.Parameter, str]]:
    """Every place of a trainable parameter, with its kind; all that a norm holds is norm, but for FiLM."""
    if isinstance(module, FiLM):
        yield from ((parameter, "film") for parameter in module.parameters() if parameter.requires_grad)
        return
    is_norm = is_norm or _is_norm(module)
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if parameter.requires_grad:
            called = path if isinstance(module, nn.Embedding) else name
            is_embedding = _joined(path, name) in named or _EMBEDDING.search(called) is not None
            yield parameter, "norm" if is_norm else "embedding" if is_embedding else _kind_of(name, parameter)
    for name, child in module.named_children():
        yield from _places(child, _joined(path, name), named, is_norm=is_norm)


def _is_norm(module: nn.Module) -> bool:
    is_one = isinstance(module, ConditionalLayer | _NormBase) or conversion_of(module) is not None
    return is_one or is_sample_norm(module)


def _kind_of(name: str, parameter: nn.Parameter) -> str:
    is_vector = parameter.dim() <= 1 or (name != "weight" and parameter.squeeze().dim() <= 1)
    return "bias" if name.endswith("bias") or is_vector else "weight"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
