"""What a width saves in time: the folded OATS ResNet-34 at each of its widths, in turns within one run.

    python -m benchmarks.latency            # 2 minutes, with nothing else running; writes results/latency.csv
    python -m benchmarks.latency --smoke    # one round, batch 1; writes nothing

The network is the published one (32x32 images, widths 0.5, 0.75, 1), folded at each width; float32, torch's default
number of threads. A latency is the median over rounds in which the widths take turns; the ratio is that to width 1.
"""

import argparse
import csv
import os
import platform
from pathlib import Path

import torch

from art_oat import OperatingPoint, fold
from art_oat.evaluation.cost import measure_costs
from art_oat.models import resnet34
from art_oat.storage import write_whole
from art_oat.surgery import to_published

RESULTS = Path(__file__).parent / "results" / "latency.csv"
WIDTHS = (0.5, 0.75, 1.0)
BATCH_SIZES = (32, 1)
SECONDS = 12.0
SHAPE = (3, 32, 32)


def rows(batch_sizes: tuple[int, ...], seconds: float) -> list[dict[str, object]]:
    model = to_published(resnet34(), widths=WIDTHS)
    networks = {width: fold(model, OperatingPoint(0.0, width)) for width in WIDTHS}
    result: list[dict[str, object]] = []
    for batch_size in batch_sizes:
        costs = measure_costs(networks, SHAPE, batch_size=batch_size, seconds=seconds)
        for width, cost in costs.items():
            times = {"ms per batch": f"{1000 * cost.latency:.2f}", "ratio": f"{cost.latency / costs[1.0].latency:.3f}"}
            sizes = {"G MACs": f"{cost.macs / 1e9:.3f}", "ratio of MACs": f"{cost.macs / costs[1.0].macs:.3f}"}
            row = {"batch size": batch_size, "width": width, **times, **sizes, "parameters": cost.parameters}
            print(row, flush=True)
            result.append(row)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one round of batch 1, nothing written")
    is_smoke = parser.parse_args().smoke
    measured = rows(BATCH_SIZES[1:], 0.01) if is_smoke else rows(BATCH_SIZES, SECONDS)
    if is_smoke:
        return
    environment = {
        "command": "python -m benchmarks.latency",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    with write_whole(RESULTS) as file:
        writer = csv.DictWriter(file, [*measured[0], *environment], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **environment} for row in measured)


if __name__ == "__main__":
    main()
