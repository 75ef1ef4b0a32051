"""What a format of files is, and how exporters' pages of errors become one line."""

from __future__ import annotations

import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from art_oat.checks import one_line
from art_oat.export.shipment import Shipment

Run = Callable[..., Tensor]
"""Answers inputs ``[N, ...]``, and lams ``[N]`` where the file takes them, with scores ``[N, K]``, float32."""


class ExportError(RuntimeError):
    """A network cannot be written in a format, or its file answers otherwise than it does; nothing was written."""


class Format(ABC):
    """How networks are written in one format, and how such a file is run.

    Attributes:
        name: What it is asked for by.
        suffixes: Of files that are taken for it, the usual one first.
        precisions: What its files can hold.
        takes_dial: Whether a file can have lam as an input.
        takes_preprocessing: Whether a file can hold more than weights.
        packages: What must be installed for it, beside torch.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")
    takes_dial: ClassVar[bool] = True
    takes_preprocessing: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()

    def check_packages(self) -> None:
        """Refuse to write where something is not installed.

        Raises:
            ImportError: Names it, and the extra that brings it.
        """
        if missing := [name for name in self.packages if find_spec(name) is None]:
            raise ImportError(f"{self.name} needs {', '.join(missing)}: pip install art-oat[export]")

    @abstractmethod
    def write(self, shipment: Shipment, precision: str, path: Path) -> None:
        """Write a file.

        Args:
            shipment: What it holds.
            precision: One of ``precisions``; of a file that is to be int8, what it says of itself.
            path: Where; a temporary name.
        """

    def quantize(self, shipment: Shipment, path: Path, calibration: Tensor) -> None:
        """Make a file that was written int8, by the ranges of activations that inputs ``[N, ...]`` have.

        Raises:
            NotImplementedError: If there is no int8 in this format.
        """
        raise NotImplementedError(f"{self.name} knows no int8.")

    @abstractmethod
    def run(self, path: Path, shipment: Shipment) -> Run:
        """Return how a file answers, without the network that it was made of; its class may be needed."""


@contextmanager
def exporter(name: str, what: str) -> Iterator[None]:
    """Let an exporter work in silence, and say in one line why it failed.

    Args:
        name: Of the format.
        what: What cannot be done if it fails, such as ``"hold this network"``.

    Raises:
        ExportError: Whatever else is raised in the block, but for ``OSError``.
    """
    was_disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where torch.export shows its graph
            warnings.simplefilter("ignore")
            yield
    except (OSError, ExportError):  # such as a full disk
        raise
    except Exception as error:
        raise ExportError(f"{name} cannot {what}: {one_line(_innermost(error))}") from error
    finally:
        logging.disable(was_disabled)


def _innermost(error: BaseException) -> BaseException:
    """Return the first of the errors that led to this one: exporters wrap it in advice."""
    seen: Sequence[BaseException] = [error]
    while (cause := seen[-1].__cause__) is not None and cause not in seen:
        seen = [*seen, cause]
    return next((it for it in reversed(seen) if str(it)), error)
