"""What a width saves in time: the folded OATS ResNet-34 at each of its widths, in turns within one run.

    python -m benchmarks.latency    # 2 minutes, with nothing else running

The network is the published one (32x32 images, widths 0.5, 0.75, 1), folded at each width; float32, torch's default
number of threads. A latency is the median over rounds in which the widths take turns; the ratio is that to width 1.
"""

import argparse

from art_oat import fold
from art_oat.evaluation.cost import measure_costs
from art_oat.models import resnet34
from art_oat.surgery import to_published
from benchmarks.steps import SHAPE
from benchmarks.study import Found, run
from benchmarks.tables import Row

WIDTHS = (0.5, 0.75, 1.0)
BATCH_SIZES = (32, 1)
SECONDS = 12.0


def measure(given: argparse.Namespace) -> Found:
    model = to_published(resnet34(), widths=WIDTHS)
    networks = {width: fold(model, lam=0.0, width=width) for width in WIDTHS}
    rows: list[Row] = []
    for batch_size in BATCH_SIZES[1:] if given.smoke else BATCH_SIZES:
        costs = measure_costs(networks, SHAPE, batch_size=batch_size, seconds=0.01 if given.smoke else SECONDS)
        for width, cost in costs.items():
            times = {"ms per batch": f"{1000 * cost.latency:.2f}", "ratio": f"{cost.latency / costs[1.0].latency:.3f}"}
            sizes = {"G MACs": f"{cost.macs / 1e9:.3f}", "ratio of MACs": f"{cost.macs / costs[1.0].macs:.3f}"}
            rows.append({"batch size": batch_size, "width": width, **times, **sizes, "parameters": cost.parameters})
    return Found({"latency": rows})


if __name__ == "__main__":
    run("latency", __doc__, measure, {})
