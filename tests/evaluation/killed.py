"""Run by test_runner in a process of its own, and killed there."""

import sys
from pathlib import Path

from tests.evaluation.test_runner import evaluate_one_point, measure_curve

if __name__ == "__main__":
    run = {"evaluate": evaluate_one_point, "measure": measure_curve}[sys.argv[1]]
    run(Path(sys.argv[2]), Path(sys.argv[3]), pause=0.05)
