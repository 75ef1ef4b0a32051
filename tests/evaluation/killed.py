"""Run by tests in a process of its own, and killed there."""

import sys
from pathlib import Path

from tests.evaluation.subjects import Logged, report_of, varied_classifier
from tests.evaluation.test_runner import evaluate_one_point, measure_curve


def attack_without_end(_: Path, log: Path, pause: float) -> None:
    """Two processes that attack for a minute each."""
    attack = {"it": Logged(log, pause=1200 * pause)}
    report_of(varied_classifier(), attack=attack, lam=1.0, shard_size=12, nb_workers=2)


if __name__ == "__main__":
    runs = {"evaluate": evaluate_one_point, "measure": measure_curve, "without end": attack_without_end}
    runs[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), pause=0.05)
