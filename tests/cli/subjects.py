"""How tests call commands, and small trainings."""

from typer.testing import CliRunner

from art_oat.cli import app


def call(*arguments: str):
    return CliRunner().invoke(app, arguments)


def said(result) -> str:
    """What was printed, in one line."""
    return " ".join(result.output.replace("│", " ").split())


QUICK = ("--nb-epochs", "1", "--nb-robust", "10", "--attack", "pgd-1")
TRAINED = ("--network", "small-4", "--nb-epochs", "1", "--attack", "pgd-1", "--lambdas", "0,0.5,1", "--eps", "0.2")
DIGITS = ("train", "--data", "digits", "--nb-train", "50", *TRAINED)
MEASURING = ("--attack", "pgd-1", "--nb-robust", "10", "--nb-workers", "1", "--lambdas", "1")
