"""What a folder remembers of the files in it: with which settings they were made, and what was in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from art_oat.fingerprint import fingerprint
from art_oat.storage import SIGNATURE, digest, plain_digest, read_json, write_json


class Ledger:
    """Remembers with which settings the files in a folder were made, and what was in them.

    Args:
        path: The file that holds it, with its own SHA-256; one that is damaged, or is not there, remembers nothing.

    Attributes:
        fault: What is wrong with the file; empty if nothing is.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.fault = path, ""
        self.kept: dict[str, Any] = {}
        try:
            kept = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except ValueError:
            kept = None
        if isinstance(kept, dict) and kept.pop(SIGNATURE, None) == plain_digest(kept):
            self.kept = kept
        else:
            self.fault = f"{path} is damaged, or was changed"

    def settings(self, name: str) -> dict[str, Any]:
        """Return what something was made with; nothing where that is not known."""
        entry = self.kept.get(name)
        settings = entry.get("settings") if isinstance(entry, dict) else None
        return settings if isinstance(settings, dict) else {}

    def holds(self, name: str, settings: Mapping[str, Any], results: Sequence[Path] = ()) -> bool:
        """Whether ``results`` were made with ``settings``, and are still what was made."""
        return all(path.exists() for path in results) and self.kept.get(name) == _entry(settings, results)

    def forget(self, name: str) -> None:
        """Note nothing of something any more, from the next :meth:`keep` on."""
        self.kept.pop(name, None)

    def keep(self, name: str, settings: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
        """Note that ``results`` were made with ``settings``."""
        self.kept[name] = _entry(settings, results)
        self.fault = ""
        write_json(self.path, self.kept | {SIGNATURE: plain_digest(self.kept)})


def _entry(settings: Mapping[str, Any], results: Sequence[Path]) -> dict[str, Any]:
    return {"settings": fingerprint(settings), "sha256": digest(*results)}
