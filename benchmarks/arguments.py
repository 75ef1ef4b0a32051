"""What the studies of ``configs.py`` are asked for on the command line, and how that is written down again."""

import argparse
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all of them take."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", choices=("cifar10", "digits"), default="digits")
    result.add_argument("--data-folder", help="where CIFAR-10 lies")
    result.add_argument("--runs", type=Path, default=Path("runs/tradeoff"), help="keeps what is finished")
    result.add_argument("--smoke", action="store_true", help="one epoch, a few images, nothing written")
    return result


def command(study: str, given: argparse.Namespace, *more: str) -> str:
    """Write down what was asked for, without the folder's name."""
    folder = [] if given.data_folder is None else ["--data-folder FOLDER"]
    return " ".join([f"python -m benchmarks.{study} --data {given.data}", *more, *folder])
