"""How fast a training runs, beside what its device could do: images per second, FLOPs, and where a step spends time."""

import gc
import itertools
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from art_oat.data import Dataset
from art_oat.experiment.build import trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.training.batches import ArrayBatches
from benchmarks.cost import arithmetic_of
from benchmarks.steps import step_for

Action = Callable[[], object]

PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOPs per second of products in bfloat16 without sparsity, as published, by a part of the card's name; first fit."""

NB_IMAGES = 8192
"""Training images that batches are drawn from."""

_NB_WARM = 5
_NB_ROWS = 30


class Peak(NamedTuple):
    """What a device could do: FLOPs per second in bfloat16, and who says so."""

    rate: float
    source: str


@dataclass(frozen=True)
class Speed:
    """How fast the steps of a training are: images, seconds and FLOPs of a step, and most bytes on the GPU."""

    nb_samples: int
    seconds: float
    flops: int
    nb_bytes: int

    def row(self, peak: float, nb_images: int) -> dict[str, float]:
        """Return a row of the table, for a peak in FLOPs per second and an epoch of so many images."""
        images = self.nb_samples / self.seconds
        return {
            "batch": self.nb_samples,
            "images/s": round(images, 1),
            "ms per step": round(1e3 * self.seconds, 3),
            "GFLOP per image": round(self.flops / self.nb_samples / 1e9, 6),
            "TFLOP/s": round(self.flops / self.seconds / 1e12, 3),
            "share of the peak": round(self.flops / self.seconds / peak, 4),
            "GB on the GPU": round(self.nb_bytes / 1e9, 2),
            "seconds per epoch": round(nb_images / images, 2),
        }


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def tuned() -> Iterator[None]:
    """Let cuDNN try its convolutions out within the block: worth it where batches are of few sizes."""
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def steps_of(recipe: Recipe, data: Dataset) -> tuple[Action, torch.device]:
    """Return what takes the next step of a training whenever it is called, and the device.

    Batches are drawn, augmented and attacked as in the training; weights stay, as the learning rate is 0.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    step = step_for(trainer_for(recipe, data), generator)
    for group in step.classifier.optimizer.param_groups:
        group["lr"] = 0.0
    x, y = step.classifier.as_tensors(*(part[:NB_IMAGES] for part in data.train))
    batch_size = min(recipe.batch_size, len(x))
    epochs = itertools.repeat(ArrayBatches(x, y, batch_size, generator))
    batches = (batch for batch in itertools.chain.from_iterable(epochs) if len(batch[0]) == batch_size)
    return lambda: step(*next(batches)), step.classifier.device


def speed_of(recipe: Recipe, data: Dataset, nb_steps: int) -> Speed:
    """Time steps of a training, one after the other, without waiting for each."""
    take, device = steps_of(recipe, data)
    with tuned():
        for _ in range(_NB_WARM):
            take()
        flops = arithmetic_of(take).flops
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = seconds_of(take, nb_steps, device)
    nb_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Speed(min(recipe.batch_size, len(data.train.x)), seconds, flops, nb_bytes)


def seconds_of(take: Action, nb_calls: int, device: torch.device) -> float:
    """Return the mean seconds of a call."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(nb_calls):
        take()
    synchronize(device)
    return (time.perf_counter() - started) / nb_calls


def peak_of(device: torch.device) -> Peak:
    """Return the published peak of a card, or else what a product of large matrices in bfloat16 reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if (published := published_peak(name)) is not None:
        return Peak(published, name)
    size, nb_calls = (8192, 20) if device.type == "cuda" else (512, 2)
    take = partial(torch.mm, *torch.randn(2, size, size, device=device).bfloat16())
    seconds_of(take, 3, device)
    return Peak(2 * size**3 / seconds_of(take, nb_calls, device), "a matrix product")


def published_peak(name: str) -> float | None:
    """Return the peak of a card by its name, None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def waits_of(take: Action, device: torch.device) -> Counter[str]:
    """Count where a call makes the processor wait for the GPU, by file and line; nothing on a processor."""
    if device.type != "cuda":
        return Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.cuda.set_sync_debug_mode("warn")
            take()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(it.filename).name}:{it.lineno}" for it in caught if "synchronizing" in str(it.message))


class Profile(NamedTuple):
    """Where a step spends its time.

    Attributes:
        seconds: Of a step that is not watched.
        busy: Seconds in which the GPU computes or copies within a step; 0 on a processor.
        nb_kernels: How many times it is set to work.
        waits: Where the processor waits for it, and how often.
        table: The operations that take longest, as text.
    """

    seconds: float
    busy: float
    nb_kernels: int
    waits: Counter[str]
    table: str

    def text(self) -> str:
        """Write everything down."""
        lines = [
            f"{1e3 * self.seconds:.2f} ms for a step; the GPU works for {1e3 * self.busy:.2f} ms of it, "
            f"{self.busy / self.seconds:.0%}, on {self.nb_kernels} kernels and copies.",
            f"The processor waits for the GPU {self.waits.total()} times in a step:",
            *(f"{count:6d}  {where}" for where, count in self.waits.most_common()),
        ]
        return "\n".join([*lines, "", self.table, ""])


def profile_of(recipe: Recipe, data: Dataset, nb_steps: int, trace: Path) -> Profile:
    """Watch one step of a training after some that are timed; write a trace that Chrome shows, ``.json.gz``."""
    take, device = steps_of(recipe, data)
    is_gpu = device.type == "cuda"
    with tuned():
        for _ in range(_NB_WARM):
            take()
        seconds, waits = seconds_of(take, nb_steps, device), waits_of(take, device)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * is_gpu]) as watched:
            take()
            synchronize(device)
    gc.collect()
    watched.export_chrome_trace(str(trace))
    by = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    events = watched.key_averages()
    on_gpu = [it for it in events if _is_on_gpu(it)]
    table = events.table(sort_by=by, row_limit=_NB_ROWS, max_name_column_width=80)
    busy = sum(it.self_device_time_total for it in on_gpu) / 1e6
    return Profile(seconds, busy, sum(it.count for it in on_gpu), waits, table)


def _is_on_gpu(event: Any) -> bool:
    """Whether an event is work of the GPU itself, rather than of what set it to work."""
    return event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
