"""The file that a training goes on from: what is written, and what is checked before anything of it is used."""

from __future__ import annotations

import io
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from art_oat.checks import one_line, refuse
from art_oat.classifier import OATClassifier
from art_oat.fingerprint import Plain, differences
from art_oat.model import OATModel
from art_oat.model_files import form_faults, value_faults
from art_oat.numbers import count_faults, number_faults, plain
from art_oat.storage import digest, write_bytes
from art_oat.training.callbacks import Callback, file_faults
from art_oat.training.records import EpochMetrics, EpochRecord

_HEAD = b"art_oat training state, SHA-256 of the rest: "
_LIKE_WEIGHTS = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "acc_delta"}
"""What optimizers of torch keep in the shape of the weights."""


class ResumeFile(Callback):
    """Writes all that a training needs to continue, after every epoch, when the other callbacks were told.

    If the file is there, ``fit`` continues after the last epoch or step in it, in whatever trainer and network, and
    comes to the very same result as if it had never been cut. That of a finished training gives the result back, and
    trains no more. Delete it to train anew. The settings must be those of the training in the file; how often it is
    written is none of them, and the data are not compared.

    Exact for arrays, also within an epoch, whose order is drawn again. An attack, an augmentation or a function that
    remembers something starts anew. A scheduler with ``step()`` needs ``state_dict()`` and ``load_state_dict()``.

    A ``DataLoader`` or a generator of ART's is gone on with by taking as many batches from it as were trained on, which
    takes the time to load them. That is exact where its order comes from torch's global generator, as with
    ``shuffle=True`` and no generator of its own, or is the same in every pass. With randomness of its own, some samples
    of the epoch that was cut come twice in it, and others do not.

    Args:
        path: The file. It holds the weights and what the optimizer keeps; within an epoch, also the state at its
            beginning, of which a copy is then kept in memory, so that the epoch can be undone.
        every_steps: Write within an epoch, too, whenever the steps of this call of ``fit`` are a multiple of this.
        every_minutes: Likewise, whenever so much time has passed since the file was written. With both, whichever comes
            first; with neither, after epochs alone. Needs a loader that knows its length, like ``every_steps``.

    Raises:
        TypeError: If ``every_steps`` is no whole number, or ``every_minutes`` none.
        ValueError: If a number is not above 0.
    """

    def __init__(self, path: str | Path, *, every_steps: int | None = None, every_minutes: float | None = None) -> None:
        faults = [] if every_steps is None else count_faults({"every_steps": every_steps})
        if every_minutes is not None:
            faults += number_faults({"every_minutes": every_minutes}, "be a number above 0, or None", lambda it: it > 0)
        refuse(faults)
        self.path = path
        self.every_steps, self.every_minutes = plain(every_steps), plain(every_minutes)
        self._written = time.monotonic()

    @property
    def is_for_steps(self) -> bool:
        """Whether it is written within epochs, too."""
        return self.every_steps is not None or self.every_minutes is not None

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:  # noqa: D102
        super().on_fit_start(model, history)
        self._written = time.monotonic()

    def is_due(self, nb_steps: int) -> bool:
        """Whether to write after so many steps of ``fit``, within an epoch."""
        if self.every_steps is not None and nb_steps % self.every_steps == 0:
            return True
        return self.every_minutes is not None and time.monotonic() - self._written >= 60 * self.every_minutes

    def read(self, settings: Mapping[str, Plain], classifier: OATClassifier) -> dict[str, Any] | None:
        """Return what :meth:`write` was given last for the same settings, tensors on the CPU; None without a file.

        Raises:
            ValueError: If the file is of something else, damaged, of a training with other settings, which it names, or
                holds what no training of this classifier can have come to.
        """
        path = Path(self.path)
        if not path.exists():
            return None
        found, content = _unpacked(path)
        if found.get("scheduler") != settings["scheduler"]:  # which decides what can be said of the optimizer's groups
            found, settings = {**found, "optimizer": None}, {**settings, "optimizer": None}
        if different := differences(found, settings):
            raise ValueError(
                f"ResumeFile must name a file of this training, got {path}, of one with other settings: {different}. "
                "Go on with the settings of that one, or delete the file to start anew."
            )
        faults = content_faults(content, classifier, settings["nb_epochs"])
        refuse([f"ResumeFile must name a file that fit wrote, or none yet, but in {path}:", *faults] if faults else [])
        return content

    def write(self, settings: Mapping[str, Plain], content: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        packed = io.BytesIO()
        torch.save({"settings": dict(settings), "content": dict(content)}, packed)
        whole = packed.getvalue()
        write_bytes(Path(self.path), _HEAD, digest(whole).encode(), b"\n", whole)
        self._written = time.monotonic()

    def origin(self, content: Mapping[str, Any], nb_epochs: int, nb_batches: int | None) -> str:
        """Say what a training goes on with, from the file and what it holds."""
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(Path(self.path).stat().st_mtime))
        nb_done, place = content["nb_done"], content["place"]
        if nb_done == nb_epochs:
            return f"The training in {self.path}, written {written}, is complete."
        where = f"after epoch {nb_done} of {nb_epochs}"
        if place is not None:
            where = f"in epoch {nb_done + 1} of {nb_epochs}, after step {place['nb_batches']} of {nb_batches}"
        return f"Going on {where}, from {self.path}, written {written}."

    def own_files(self) -> list[Path]:  # noqa: D102
        return [Path(self.path)]

    def faults(self, classifier: OATClassifier) -> list[str]:  # noqa: D102
        return file_faults("ResumeFile", self.path)


def _unpacked(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings and content of a file, once it is known to be what was written.

    Raises:
        ValueError: If it is not; names it.
    """
    head, mark, rest = path.read_bytes().partition(_HEAD)
    written, _, whole = rest.partition(b"\n")
    if head or not mark:
        raise ValueError(f"ResumeFile must name a file that fit wrote, or none yet, got {path}, which is none.")
    if written.decode(errors="replace") != digest(whole):
        raise ValueError(
            f"ResumeFile must name a file that fit wrote, or none yet, got {path}, which is damaged: its SHA-256 is "
            "another. Delete it to start anew."
        )
    try:
        kept = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
        return dict(kept["settings"]), dict(kept["content"])
    except Exception as error:  # whatever unpickling raises
        raise ValueError(
            f"ResumeFile must name a file that fit wrote, or none yet, got {path}, which is none: {one_line(error)}"
        ) from error


def content_faults(content: Mapping[str, Any], classifier: OATClassifier, nb_epochs: Any) -> list[str]:
    """Say what in the state of a training, by name, no training of a classifier can have come to."""
    checks: dict[str, Callable[[Any], Any]] = {
        "nb_before": lambda it: _is_count(it) and it <= len(content["history"]),
        "nb_done": lambda it: _is_count(it) and it <= nb_epochs,
        "nb_steps": _is_count,
        "history": lambda it: all(EpochRecord.from_state(record) for record in it),
        "nb_records_before": lambda it: _is_count(it) and it <= len(content["history"]),
        "guard": lambda it: it is None or (_are_numbers(it["best"]) and isinstance(it["has_tripped"], bool)),
        "callbacks": lambda it: all(isinstance(one, dict) for alike in it.values() for one in alike),
        "step": _is_of_step,
        "place": lambda it: _is_place(it, content["nb_steps"]),
        "stepper": lambda it: isinstance(it, dict),
        "optimizer": lambda it: _is_of(it, classifier.optimizer),
        "generator": _is_generator_state,
        "cpu_generator": _is_generator_state,
        "cuda_generator": lambda it: it is None or it.dtype == torch.uint8,
    }
    faults = [f"{name} must be what fit wrote." for name, check in checks.items() if not _holds(check, content, name)]
    if faults or content["place"] is None:
        return faults or _tensor_faults(content, classifier.model)
    undo = content["place"]["undo"]
    faults = _tensor_faults(content, classifier.model)
    return faults + ([] if undo is None else content_faults(undo, classifier, nb_epochs))


def _holds(check: Callable[[Any], Any], content: Mapping[str, Any], name: str) -> bool:
    try:
        return bool(check(content[name]))
    except Exception:  # noqa: BLE001 - whatever a foreign form raises
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_numbers(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, float) and math.isfinite(value) for value in values.values())


def _is_of_step(state: Mapping[str, Any]) -> bool:
    is_counted = state["average"] is None or _is_count(state["average"]["nb_updates"])
    metrics = EpochMetrics(**state["metrics"])
    counts = (metrics.nb_samples, metrics.nb_correct, metrics.nb_attacked, metrics.nb_robust)
    return is_counted and all(map(_is_count, counts)) and _are_numbers({"loss_sum": metrics.loss_sum})


def _is_place(state: Mapping[str, Any] | None, nb_steps: int) -> bool:
    """Whether it is that of an epoch, some of whose batches were taken."""
    if state is None:
        return True
    begun, nb_batches = state["begun"], state["nb_batches"]
    are_generators = all(_is_generator_state(begun[name]) for name in ("generator", "cpu_generator"))
    is_counted = _is_count(nb_batches) and 0 < nb_batches <= nb_steps
    return are_generators and "cuda_generator" in begun and is_counted and _are_numbers({"seconds": state["seconds"]})


def _is_generator_state(state: Tensor) -> bool:
    own = torch.get_rng_state()
    return state.dtype == own.dtype and state.shape == own.shape


def _is_of(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the state of an optimizer is of the tensors that another one trains, without NaN."""
    groups = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        return False
    indices = itertools.chain.from_iterable(group["params"] for group in state["param_groups"])
    of = dict(zip(indices, itertools.chain.from_iterable(groups), strict=True))
    kept = [(name, it, of[index]) for index, its in state["state"].items() for name, it in its.items()]
    tensors = [(name, it, weight) for name, it, weight in kept if isinstance(it, Tensor)]
    settings = [it for group in state["param_groups"] for it in group.values() if isinstance(it, float)]
    is_fitting = all(it.shape == weight.shape for name, it, weight in tensors if name in _LIKE_WEIGHTS)
    return is_fitting and not any(map(math.isnan, settings)) and not any(bool(it.isnan().any()) for _, it, _ in tensors)


def _tensor_faults(content: Mapping[str, Any], model: OATModel) -> list[str]:
    """Say which tensors are not those of a network, by kind and shape, or have values that no training keeps."""
    own = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    parameters = dict(model.named_parameters())
    step = content["step"]
    groups = {"weights": step["tensors"]} | ({} if step["good"] is None else {"good weights": step["good"]})
    groups |= {} if step["average"] is None else {"average": step["average"]["averages"]}
    for one in content["callbacks"].get("RestoreBest", ()):
        groups |= {"best weights": one["tensors"]} if one.get("tensors") else {}
    faults = []
    for what, tensors in groups.items():
        expected = own if what != "average" else {name: it for name, it in own.items() if it.is_floating_point()}
        if len(tensors) != len(expected):
            faults.append(f"{what} must hold {len(expected)} tensors, got {len(tensors)}.")
            continue
        found = dict(zip(expected, tensors, strict=True))
        like = {name: it.to(found[name].dtype) if what == "average" else it for name, it in expected.items()}
        faults += [f"{what}: {fault}" for fault in form_faults(found, like) or value_faults(found, parameters)]
    return faults
