"""Noticing what changes in a network beside its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

from art_oat.rebuild import contents

_END = object()
_MODE = "training"
_REGISTERS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_NOT_LOOKED_INTO = vars(nn.Module()).keys() - {*_REGISTERS}
"""What torch keeps in a module beside the registers that decide its answers; these are many, and mostly empty."""


class Watch:
    """Notices when attributes, hooks, layers, or the contents of containers and objects of modules are exchanged.

    Two things count as no change: the mode of a module, and a tensor that carries a graph in place of another tensor,
    which is what a pass leaves behind. Not watched is what functions see beside their module (globals, closures,
    attributes of classes), and what is written into tensors.

    Args:
        *roots: Modules, watched with all that they hold.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self._roots = roots
        self._look()

    def _look(self) -> None:
        dicts: list[dict[Any, Any]] = []
        sequences: list[Iterable[Any]] = []
        pending, seen = [*self._roots], set()
        while pending:
            holder: Any = pending.pop()
            if id(holder) in seen or isinstance(holder, Tensor):
                continue
            seen.add(id(holder))
            if isinstance(holder, dict):
                dicts.append(holder)
            elif isinstance(holder, list | set | tuple):
                sequences.append(holder)
            elif hasattr(holder, "__dict__") and contents(holder):
                dicts.append(vars(holder))
                seen.add(id(vars(holder)))
            pending += _inner(holder)
        self._dicts, self._sequences = dicts, sequences
        self._modes = {position for position, key in enumerate(chain.from_iterable(dicts)) if key == _MODE}
        self._seen = [*self._now()]

    def _now(self) -> Iterator[Any]:
        return chain(chain.from_iterable(map(dict.values, self._dicts)), chain.from_iterable(self._sequences), (_END,))

    def has_changed(self) -> bool:
        """Whether something was exchanged since the watch was made."""
        try:
            if all(map(is_, self._now(), self._seen)):
                return False
            now = [*self._now()]
        except RuntimeError:  # a container changes just now, in another thread
            return True
        differing = (at for at, (new, old) in enumerate(zip(now, self._seen, strict=False)) if new is not old)
        if len(now) != len(self._seen) or not all(
            at in self._modes or _is_same(now[at], self._seen[at]) for at in differing
        ):
            return True
        self._look()
        return False


def _inner(holder: Any) -> Iterable[Any]:
    if isinstance(holder, nn.Module):
        return [value for name, value in vars(holder).items() if name not in _NOT_LOOKED_INTO]
    return contents(holder)


def _is_same(new: Any, old: Any) -> bool:
    """Whether a value takes the place of another without changing what a network does."""
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return new is old or new.grad_fn is not None
    if type(new) is not type(old):
        return False
    if isinstance(new, list | tuple):
        return len(new) == len(old) and all(map(_is_same, new, old))
    if isinstance(new, dict):
        return new.keys() == old.keys() and all(_is_same(new[key], old[key]) for key in new)
    return new is old or (isinstance(new, bool | int | float | str) and new == old)
