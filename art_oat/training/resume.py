"""Owns the state of a training on disk: what it needs to go on after a cut, and to which training that belongs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from art_oat.classifier import OATClassifier
from art_oat.storage import Plain, differences, fingerprint, replaced
from art_oat.training.checkpoint import BestEpoch
from art_oat.training.schedule import Pace, is_schedule
from art_oat.training.step import Step

_FORMAT = 3  # of 2, settings were texts, and dropout drew other masks


@dataclass(frozen=True)
class Ongoing:
    """The parts of a training that change from epoch to epoch; ``fit`` has made them, and they are its own.

    Args:
        classifier: Holds the optimizer, and says on which device torch's global generator counts.
        step: Holds weights, statistics and their average.
        pace: Holds the schedule.
        best: Holds the best epoch.
        generator: The trainer's.
        nb_clean: How many epochs, the first, are clean.
    """

    classifier: OATClassifier
    step: Step
    pace: Pace
    best: BestEpoch
    generator: torch.Generator
    nb_clean: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything, between two epochs, within the block that borrows torch's global generators."""
        device = self.classifier.device
        return {
            "step": self.step.state_dict(),
            "pace": self.pace.state_dict(),
            "best": self.best.state_dict(),
            "optimizer": self.classifier.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of the same training returned, perhaps on another device."""
        self.step.load_state_dict(state["step"])
        self.classifier.optimizer.load_state_dict(state["optimizer"])
        self.pace.load_state_dict(state["pace"])  # after the optimizer, whose learning rates it may write
        self.best.load_state_dict(state["best"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["cpu_generator"])
        if self.classifier.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.classifier.device)


@dataclass(frozen=True)
class StateFile:
    """Where the state of one training lies.

    Args:
        path: The file.
        settings: What tells the training apart from others, see :func:`described`.
    """

    path: Path
    settings: Mapping[str, Plain]

    def read(self) -> dict[str, Any] | None:
        """Return what :meth:`write` was given last, tensors on the CPU; None where there is no file.

        Raises:
            ValueError: If the file is of something else, or of a training with other settings; names them.
        """
        if not self.path.exists():
            return None
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, content = dict(kept["settings"]), dict(kept["content"])
        except OSError:
            raise
        except Exception as error:  # whatever unpickling raises
            raise ValueError(
                f"state_path must name a file that fit wrote, or none yet, got {self.path}, which is none: {error!r}."
            ) from error
        self._check(settings)
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        with replaced(self.path) as partial:
            torch.save({"settings": dict(self.settings), "content": dict(content)}, partial)

    def _check(self, settings: Mapping[str, Plain]) -> None:
        if different := differences(settings, self.settings):
            raise ValueError(
                f"state_path must name a file of this training, got {self.path}, of one with other settings: "
                f"{different}. Go on with the settings of that one, or delete the file to start anew."
            )


def described(parts: Mapping[str, Any], classifier: OATClassifier, scheduler: Any) -> dict[str, Plain]:
    """Return what tells a training apart from others, by name; the same in every process.

    Args:
        parts: Settings by name.
        classifier: Is trained; counts by its criterion, its optimizer and the shapes of its tensors.
        scheduler: As ``fit`` takes it.
    """
    model, criterion, optimizer = classifier.model, classifier.loss, classifier.optimizer
    own = {
        "format": _FORMAT,
        "lambdas": model.lambdas,
        "widths": model.widths,
        "criterion": {"label_smoothing": criterion.label_smoothing, "weight": criterion.weight},
        "scheduler": type(scheduler) if _is_stepped(scheduler) else scheduler,
        "optimizer": {"class": type(optimizer).__qualname__, "groups": _groups(optimizer, scheduler)},
    }
    tensors = {
        name: f"{tensor.dtype} {[*tensor.shape]}"
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
    }
    marks: dict[str, Plain] = fingerprint({**own, **parts, "tensors": tensors})
    return marks


def _groups(optimizer: torch.optim.Optimizer, scheduler: Any) -> list[dict[str, Any]]:
    """What an optimizer was made with, as far as no scheduler that is stepped may have changed it."""
    groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    if not _is_stepped(scheduler):
        return groups
    return [{name: group.get(name) for name in ("params", "initial_lr")} for group in groups]


def _is_stepped(scheduler: Any) -> bool:
    return scheduler is not None and not is_schedule(scheduler)


def scheduler_state_faults(scheduler: Any) -> list[str]:
    """Say why a scheduler could not be set back to where it stood."""
    if not _is_stepped(scheduler) or all(hasattr(scheduler, name) for name in ("state_dict", "load_state_dict")):
        return []
    kind = type(scheduler).__name__
    return [
        "scheduler must have state_dict() and load_state_dict() to go on from state_path, or from the last good state "
        f"where there is a fallback, got {kind}."
    ]


def state_faults(scheduler: Any, classifier: OATClassifier) -> list[str]:
    """Say why a training by a scheduler could not go on from a file."""
    states: dict[str, Any] = {"optimizer": _groups(classifier.optimizer, None)}
    if _is_stepped(scheduler) and not scheduler_state_faults(scheduler):
        states["scheduler"] = scheduler.state_dict()
    return [
        f"{name} must hold plain numbers and tensors to be read from state_path again, but: {error}"
        for name, state in states.items()
        if (error := _reading_error(state)) is not None
    ]


def _reading_error(state: Any) -> Exception | None:
    """What goes wrong with a state that is written and read."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever pickling raises
        return error
    return None
