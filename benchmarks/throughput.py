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
from benchmarks.scaling import arithmetic_of
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
    """How fast the steps of a training are.

    Attributes:
        nb_samples: Images in a step.
        seconds: Of a step.
        flops: Of a step: products and convolutions, two for each multiplication with its addition.
        nb_bytes: Most that was allocated on the GPU meanwhile; 0 on a processor.
    """

    nb_samples: int
    seconds: float
    flops: int
    nb_bytes: int

    @property
    def images(self) -> float:
        """Training images per second."""
        return self.nb_samples / self.seconds

    def share(self, peak: float) -> float:
        """Return what part of the peak, in FLOPs per second, the steps reach."""
        return self.flops / self.seconds / peak


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
    trainer = trainer_for(recipe, data)
    classifier = trainer.get_classifier()
    for group in classifier.optimizer.param_groups:
        group["lr"] = 0.0
    generator = torch.Generator().manual_seed(recipe.seed)
    step = step_for(trainer, generator)
    x, y = classifier.as_tensors(*(part[:NB_IMAGES] for part in data.train))
    batch_size = min(recipe.batch_size, len(x))
    epochs = itertools.repeat(ArrayBatches(x, y, batch_size, generator))
    batches = (batch for batch in itertools.chain.from_iterable(epochs) if len(batch[0]) == batch_size)
    return lambda: step(*next(batches)), classifier.device


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
    """Return the published peak of a card, or else what a product of large matrices reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    published = published_peak(name)
    return Peak(product_rate(device), "a matrix product") if published is None else Peak(published, name)


def published_peak(name: str) -> float | None:
    """Return the peak of a card by its name, None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def product_rate(device: torch.device) -> float:
    """Return the FLOPs per second of a product of square matrices of random numbers in bfloat16."""
    size, nb_calls = (8192, 20) if device.type == "cuda" else (512, 2)
    factors = torch.randn(2, size, size, device=device).bfloat16()
    take = partial(torch.mm, *factors)
    seconds_of(take, 3, device)
    return 2 * size**3 / seconds_of(take, nb_calls, device)


def synchronizations(take: Action, device: torch.device) -> Counter[str]:
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
            "",
            self.table,
        ]
        return "\n".join(lines) + "\n"


def profile_of(recipe: Recipe, data: Dataset, nb_steps: int, trace: Path) -> Profile:
    """Watch one step of a training; write what happened in it, moment by moment, to a file that Chrome shows.

    Args:
        recipe: How it trains.
        data: On what.
        nb_steps: How many steps are timed, unwatched.
        trace: Ends in ``.json.gz``.
    """
    take, device = steps_of(recipe, data)
    with tuned():
        for _ in range(_NB_WARM):
            take()
        seconds = seconds_of(take, nb_steps, device)
        waits = synchronizations(take, device)
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]
        with profile(activities=activities) as watched:
            take()
            synchronize(device)
    gc.collect()
    watched.export_chrome_trace(str(trace))
    on_gpu = [it for it in watched.key_averages() if _is_on_gpu(it)]
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = watched.key_averages().table(sort_by=by, row_limit=_NB_ROWS, max_name_column_width=80)
    busy = sum(it.self_device_time_total for it in on_gpu) / 1e6
    return Profile(seconds, busy, sum(it.count for it in on_gpu), waits, table)


def _is_on_gpu(event: Any) -> bool:
    """Whether an event is work of the GPU itself, rather than of what set it to work."""
    return event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
