"""Networks that are exported only when folded, and what they tell exporters."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn


class FoldedFirst(nn.Module):
    """A network whose answers depend on more than its own tensors, so that a graph of it would be wrong or stale.

    ``torch.export``, ``torch.onnx``, ``torch.jit`` and ``torch.fx`` are told in one line what to export instead.
    """

    def refuse_exporters(self, x: object) -> None:
        """Refuse to be run by an exporter or a tracer; called first in ``forward``.

        Args:
            x: The input.

        Raises:
            RuntimeError: If one runs it.
        """
        is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if isinstance(x, fx.Proxy) or is_traced or torch.compiler.is_exporting():
            raise RuntimeError(self._advice())

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which asks for this before it reads any code."""
        raise RuntimeError(self._advice())

    def _advice(self) -> str:
        return (
            f"a {type(self).__name__} follows training, and cannot be exported, traced or scripted. Fold it first: "
            "fold(model, lam=..., width=...), or classifier.export(path, lam=...); with lam as an input, "
            "classifier.export_dial(path)."
        )
