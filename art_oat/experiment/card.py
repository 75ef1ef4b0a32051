"""The card of a run: written when it is measured, removed when it is trained anew, left alone where it was edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from art_oat.evaluation import CardFacts, TradeoffCurve, write_card
from art_oat.evaluation.model_card import CARD, is_ours
from art_oat.experiment.recipe import Recipe


def describe(
    folder: Path, curve: TradeoffCurve, recipe: Recipe, version: str | None, say: Callable[[str], object]
) -> None:
    """Write ``README.md``, unless somebody has edited the one that is there, which is said."""
    facts = CardFacts(data=recipe.data, recipe=recipe.as_values(), version=version)
    try:
        write_card(folder, curve, facts)
    except FileExistsError:
        say(f"{folder / CARD} stays as you edited it. Delete it, and the same command writes a new one.")


def own_card(folder: Path) -> list[Path]:
    """Return the card that :func:`describe` wrote, if it is there and nobody has edited it."""
    card = folder / CARD
    return [card] if card.is_file() and is_ours(card) else []
