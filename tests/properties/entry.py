"""Tries a public entry on many cases: each must come out right, or be refused by the name of what is wrong in it."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from tests.properties.frozen import state_of, untouched
from tests.properties.strategies import Values

REFUSALS = (TypeError, ValueError, RuntimeError, OSError, ImportError)
"""What a refusal may be; ``OSError`` for files, ``ImportError`` for what is not installed."""
_FOREIGN = (UnicodeError, RecursionError, NotImplementedError)
"""Derived from these, but no refusals."""
Given = Mapping[str, Any]

NB_CASES: Counter[str] = Counter()
"""How many cases each entry is tried on; see test_tally."""


@dataclass(frozen=True)
class Case:
    """Arguments of one call.

    Attributes:
        given: By name.
        wrong: Names of those that must be refused; then one of them must be named.
        open_: Names of those that may be refused, by name.
    """

    given: Given
    wrong: tuple[str, ...]
    open_: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A public entry, and how it is tried.

    Attributes:
        name: Of the test.
        call: What is called, with keywords.
        arguments: What they may be.
        needed: Those that are always given; others may be left out.
        check: Asserts that an answer is right, given the arguments.
        watched: Returns what a refusal must leave alone, and where ``changes_nothing``, any call.
        conflicts: Returns the names of arguments that are right alone, but do not go together.
        changes_nothing: Whether also a right call leaves what is watched alone.
        restore: Undoes what a right call has changed.
        nb_cases: How many are tried.
        always_right: Whether there is nothing to refuse.
    """

    name: str
    call: Callable[..., Any]
    arguments: Mapping[str, Values]
    needed: Collection[str] = ()
    check: Callable[[Any, Given], None] = lambda _answer, _given: None
    watched: Callable[[], Collection[Any]] = tuple
    conflicts: Callable[[Given], Collection[str]] = lambda _: ()
    changes_nothing: bool = True
    restore: Callable[[], None] = lambda: None
    nb_cases: int = 40
    kinds: Collection[str] = field(default=("right", "refused"))

    def __repr__(self) -> str:
        return self.name

    def __post_init__(self) -> None:
        NB_CASES[self.name] = self.nb_cases

    def cases(self) -> st.SearchStrategy[Case]:
        """Half of the cases are right as far as it can be told; the others have one or two arguments that are not."""
        return _cases(self)

    def try_one(self, case: Case) -> str:
        """Call it; return ``"right"`` or ``"refused"``."""
        conflicting = tuple(self.conflicts(case.given)) if not case.wrong else ()
        wrong = case.wrong + conflicting
        before = state_of(dict(case.given))
        watched = tuple(self.watched())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with untouched(*watched if self.changes_nothing or wrong else ()):
                    answer = self.call(**case.given)
        except REFUSALS as error:
            return self._refused(error, case, wrong)
        assert not wrong, f"{', '.join(wrong)} must be refused, but is taken"
        assert state_of(dict(case.given)) == before, "an argument was changed"
        try:
            self.check(answer, case.given)
        finally:
            self.restore()
        return "right"

    def _refused(self, error: Exception, case: Case, wrong: tuple[str, ...]) -> str:
        assert not isinstance(error, _FOREIGN), f"a crash: {error!r}"
        assert wrong or case.open_, f"nothing is wrong, but it is refused: {error!r}"
        names = [called for name in wrong + case.open_ for called in (name, *self._other_names(name))]
        is_named = any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in names)
        assert is_named, f"none of {names} is named in {error!r}"
        return "refused"

    def _other_names(self, name: str) -> tuple[str, ...]:
        return self.arguments[name].names if name in self.arguments else ()

    def try_many(self) -> None:
        """Try as many cases as are wanted; assert that there were some of each kind."""
        tally: Counter[str] = Counter()

        @hypothesis.settings(
            max_examples=self.nb_cases,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(self.cases())
        def one(case: Case) -> None:
            tally[self.try_one(case)] += 1

        one()
        assert tally.keys() == set(self.kinds), tally
        assert tally.total() >= self.nb_cases, tally


@st.composite
def _cases(draw: Any, entry: Entry) -> Case:
    spoilable = [name for name, values in entry.arguments.items() if not values.wrong.is_empty]
    nb_wrong = draw(st.sampled_from((0, 0, 1, 1, 2))) if spoilable else 0
    names = st.lists(st.sampled_from(spoilable), min_size=min(nb_wrong, len(spoilable)), max_size=nb_wrong, unique=True)
    wrong = tuple(draw(names)) if nb_wrong else ()
    given: dict[str, Any] = {}
    open_ = []
    for name, values in entry.arguments.items():
        if name in wrong:
            given[name] = draw(values.wrong)
        elif name in entry.needed or draw(st.booleans()):
            is_open = not values.either.is_empty and draw(st.integers(0, 4)) == 0
            given[name] = draw(values.either if is_open else values.right)
            open_ += [name] * is_open
    return Case(given, wrong, tuple(open_))


OPEN = frozenset(
    {
        "Encoding",
        "Method",
        "OATClassifier",
        "OATTrainer.fit",
        "Recipe",
        "TransferMatrix",
        "TransferMatrix.measure",
        "adapt",
        "art-oat train",
        "at(lam).loss_gradient",
        "attack_named",
        "compute_loss",
        "freeze_below",
        "get_activations",
        "hybrid_loss",
        "load",
        "load_model of an edited description",
        "loss_gradient",
        "recalibrate",
        "set_params",
        "to_conditional",
        "unfreeze",
    }
)
"""Entries that do not hold yet, and are not tried: each found something that is still to be mended."""


def tried(entries: Collection[Entry]) -> list[Entry]:
    """Return the entries that are tried."""
    return [entry for entry in entries if entry.name not in OPEN]
