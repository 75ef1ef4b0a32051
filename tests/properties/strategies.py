"""Values to try an argument with: right ones, wrong ones, and those that an entry may take or refuse."""

import decimal
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Strategy = SearchStrategy[Any]
NOTHING: Strategy = st.nothing()


@dataclass(frozen=True)
class Values:
    """Values of one argument.

    Attributes:
        right: What must be taken.
        wrong: What must be refused.
        either: What may be refused, but if it is taken, the answer must be right.
        names: How a refusal may call the argument, apart from its own name.
    """

    right: Strategy
    wrong: Strategy = NOTHING
    either: Strategy = NOTHING
    names: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return "Values(...)"

    def without(self, *values: Any) -> "Values":
        """The same, but for wrong values that mean something here, such as None."""
        return Values(self.right, self.wrong.filter(lambda it: not _is_one_of(it, values)), self.either, self.names)

    def or_none(self) -> "Values":
        """The same, where None stands for a default."""
        return Values(st.none() | self.right, self.without(None).wrong, self.either, self.names)

    def called(self, *names: str) -> "Values":
        """The same, where a refusal may use other names."""
        return Values(self.right, self.wrong, self.either, names)


def _is_one_of(value: Any, values: Collection[Any]) -> bool:
    return any(value is it or (type(value) is type(it) and value == it) for it in values)


class Odd:
    """Of no kind that anything takes."""

    def __repr__(self) -> str:
        return "Odd()"


_TEXTS = ("", "0.1", "linf", "no such", "é\n\u200b", "a" * 400)
_HUGE = (10**400, -(10**400), Fraction(10**400), 2**63, -(2**63) - 1)
_NO_NUMBERS = (
    *(None, True, False, np.True_, "", "0.1", b"0.1", 1j, np.complex64(1), [], [0.1], (0.1,), {}, {0.1}, Odd(), int),
    *(np.array([0.1, 0.2]), np.array([]), np.array([True, False]), torch.tensor([0.1, 0.2]), decimal.Decimal("sNaN")),
)
_NOT_FINITE = (math.nan, math.inf, -math.inf, np.float32(np.nan), np.float64(np.inf), np.float16(np.nan))
NO_NUMBERS: Strategy = st.sampled_from((*_NO_NUMBERS, *_NOT_FINITE))
ANYTHING: Strategy = st.sampled_from((*_NO_NUMBERS, *_NOT_FINITE, *_HUGE, *_TEXTS, 0, -1, 0.5, np.int64(3)))


def written(values: Strategy) -> Strategy:
    """Numbers in the forms in which they come: of Python and of NumPy; the value stays the same to the bit."""

    def forms(value: float) -> list[Any]:
        found: list[Any] = [float(value), np.float64(value)]
        with np.errstate(over="ignore"):
            found += [kind(value) for kind in (np.float32, np.float16) if float(kind(value)) == value]
        found += [np.array(value), torch.tensor(value, dtype=torch.float64)]
        return found + ([int(value), np.int64(value)] if float(value).is_integer() else [])

    return values.flatmap(lambda value: st.sampled_from(forms(value)))


def numbers(low: float, high: float, *, is_low_in: bool = True, is_high_in: bool = True) -> Values:
    """Finite numbers in a range; infinity as a bound stands for the largest one that makes sense."""
    largest, smallest = min(high, 1e6), max(low, -1e6)
    finely = st.floats(smallest, largest, exclude_min=not is_low_in, exclude_max=not is_high_in, allow_subnormal=False)
    span = largest - smallest
    coarsely = st.integers(0 if is_low_in else 1, 64 if is_high_in else 63).map(lambda n: smallest + n * span / 64)
    outside = [-(10**400)] + ([math.nextafter(low, -math.inf), low - 1, low - 2.5] if math.isfinite(low) else [])
    outside += [10**400, Fraction(10**400)]
    outside += [math.nextafter(high, math.inf), high + 1, np.float32(high + 2)] if math.isfinite(high) else []
    outside += ([] if is_low_in else [low, np.float32(low)]) + ([] if is_high_in else [high, np.float64(high)])
    fractions = coarsely.map(Fraction)
    decimals = coarsely.map(decimal.Decimal)
    return Values(written(finely | coarsely) | fractions, NO_NUMBERS | st.sampled_from(outside), decimals)


POSITIVE = numbers(0, math.inf, is_low_in=False)


def counts(least: int = 1, most: int = 5) -> Values:
    """Whole numbers, of Python and of NumPy; a wrong one is smaller, no whole number, or cannot be counted to."""
    whole = st.integers(least, most)
    kinds = (int, np.int64, np.int32, np.uint8) if least >= 0 else (int, np.int64)
    wrong: list[Any] = [
        least - 1,
        least - 7,
        np.int64(least - 1),
        -(10**400),
        least + 0.5,
        float(least),
        np.float64(least),
        "2",
    ]
    return Values(
        st.builds(lambda kind, value: kind(value), st.sampled_from((*kinds, torch.tensor, np.array)), whole),
        NO_NUMBERS | st.sampled_from(wrong),
    )


SEEDS = Values(
    st.integers(0, 2**32 - 1) | st.sampled_from((np.int64(3), np.uint8(7), 0)),
    NO_NUMBERS | st.sampled_from((-1, np.int64(-2), 0.5, 2.0, "1", 2**32, 2**63, 2**64, 2**70, 10**400, -(10**400))),
)
FLAGS = Values(
    st.booleans(),
    st.sampled_from(("yes", "", None, 2, 0.0, [], [True], Odd(), np.array([True, False]), math.nan)),
    st.sampled_from((np.True_, np.False_, 0, 1)),
)


def choices(*known: Any) -> Values:
    """One of several names."""
    near = [it.upper() if it != it.upper() else it.lower() for it in known if isinstance(it, str)]
    unknown = [it for it in (*near, *_TEXTS) if it not in known]
    return Values(st.sampled_from(known), st.sampled_from(unknown) | NO_NUMBERS)


def either_of(*kinds: Values) -> Values:
    """Any right value of several kinds; wrong is what all of them call so, by the first."""
    return Values(st.one_of(*(it.right for it in kinds)), kinds[0].wrong, st.one_of(*(it.either for it in kinds)))


def fixed(*values: Any, wrong: Strategy = NOTHING, either: Strategy = NOTHING) -> Values:
    """Some right values; wrong is what is said."""
    return Values(st.sampled_from(values), wrong, either)


_SHARES = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=5, unique=True)
_NO_LAMBDAS = (
    *(None, True, 0.5, "", "0.1", b"\0\1", [], (), {}, np.array([]), Odd(), int, [0.5, 0.5], [0.5, 0.5 + 1e-9], [-0.1]),
    *([0, 1.1], [math.nan], [0, math.inf], ["0"], [True], [None], [10**400], [[0.5]], [1j], np.array([[0.5]]), [Odd()]),
)
LAMBDAS = Values(
    _SHARES | _SHARES.map(tuple) | _SHARES.map(np.array) | _SHARES.map(set),
    st.sampled_from(_NO_LAMBDAS),
    _SHARES.map(torch.tensor) | _SHARES.map(lambda lams: [Fraction(lam) for lam in lams]),
)

# arrays

_SPOILS: dict[str, Callable[[Any], Any]] = {
    "none": lambda x: None,
    "text": lambda x: "x",
    "number": lambda x: 0.5,
    "0-d": lambda x: np.float32(0.5),
    "no samples of another shape": lambda x: x[:0].reshape(0, 3),
    "flat": lambda x: x.reshape(len(x), -1),
    "one axis more": lambda x: x[None],
    "one sample": lambda x: x[0],
    "other size": lambda x: x[..., :-1],
    "more channels": lambda x: np.repeat(x, 2, axis=1),
    "complex": lambda x: x.astype(np.complex64),
    "strings": lambda x: x.astype(str),
    "objects": lambda x: np.full(x.shape, Odd(), dtype=object),
    "dates": lambda x: x.astype(np.int64).astype("datetime64[s]"),
    "ragged": lambda x: [[1.0], [1.0, 2.0]],
    "odd": lambda x: Odd(),
    "mapping": lambda x: {"x": x},
}
_NOT_FINITE_SPOILS: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda x: _with(x, np.nan),
    "infinity": lambda x: _with(x, np.inf),
    "NaN in half": lambda x: _with(x.astype(np.float16), np.nan),
}
_FORMS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda x: x,
    "double": lambda x: x.astype(np.float64),
    "half": lambda x: x.astype(np.float16),
    "zeros and ones": lambda x: x.round().astype(np.int64),
    "bytes": lambda x: (x * 255).round().astype(np.uint8),
    "fortran": np.asfortranarray,
    "flipped": lambda x: x[..., ::-1],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "swapped bytes": lambda x: x.astype(">f4"),
    "read-only": lambda x: _locked(x),  # noqa: PLW0108
}
_ODD_FORMS: dict[str, Callable[[Any], Any]] = {
    "tensor": torch.from_numpy,
    "bfloat16": lambda x: torch.from_numpy(x.round()).bfloat16(),
    "with graph": lambda x: torch.from_numpy(x).requires_grad_(),
    "list": lambda x: x.tolist(),
    "bools": lambda x: x > 0.5,
    "objects": lambda x: x.astype(object),
    "masked nowhere": lambda x: np.ma.masked_array(x, mask=False),
    "long double": lambda x: x.astype(np.longdouble),
}


def _with(x: Any, value: float) -> Any:
    x = x.copy()
    x.reshape(-1)[x.size // 2] = value
    return x


def _locked(x: Any) -> Any:
    x = x.copy()
    x.flags.writeable = False
    return x


def inputs(shape: tuple[int, ...], *, sizes: Collection[int] = range(1, 5), takes_nan: bool = False) -> Values:
    """Inputs in [0, 1], ``(N, *shape)``, in the forms that arrays have."""

    def made(seed: int, size: int, change: Callable[[Any], Any]) -> Any:
        return change(np.random.default_rng(seed).random((size, *shape), dtype=np.float32))

    def of(forms: dict[str, Callable[[Any], Any]], sizes: Collection[int] = sizes) -> Strategy:
        return st.builds(made, st.integers(0, 99), st.sampled_from(list(sizes)), st.sampled_from(list(forms.values())))

    spoils = _SPOILS | ({} if takes_nan else _NOT_FINITE_SPOILS)
    spoils |= {"masked": lambda x: np.ma.masked_array(x, mask=x > 0.5 * x.max())}
    return Values(of(_FORMS), of(spoils, [size for size in sizes if size]), of(_ODD_FORMS))


_LABEL_FORMS: dict[str, Callable[[Any, int], Any]] = {
    "indices": lambda y, k: y,
    "column": lambda y, k: y[:, None],
    "small": lambda y, k: y.astype(np.uint8),
    "reals": lambda y, k: y.astype(np.float32),
    "one-hot": lambda y, k: np.eye(k, dtype=np.float32)[y],
    "one-hot of integers": lambda y, k: np.eye(k, dtype=np.int64)[y],
    "read-only": lambda y, k: _locked(y),
    "flipped": lambda y, k: y[::-1],
    "swapped bytes": lambda y, k: y.astype(">i8"),
}
_ODD_LABEL_FORMS: dict[str, Callable[[Any, int], Any]] = {
    "tensor": lambda y, k: torch.from_numpy(y),
    "list": lambda y, k: y.tolist(),
    "one-hot of bools": lambda y, k: np.eye(k, dtype=bool)[y],
    "objects": lambda y, k: y.astype(object),
    "masked nowhere": lambda y, k: np.ma.masked_array(y, mask=False),
    "half": lambda y, k: y.astype(np.float16),
}
_LABEL_SPOILS: dict[str, Callable[[Any, int], Any]] = {
    "too large": lambda y, k: np.where(y == y.max(), k, y),
    "negative": lambda y, k: y - y.max() - 1,
    "huge": lambda y, k: np.where(y == y.max(), 10**18, y),
    "fractions": lambda y, k: y + 0.5,
    "NaN": lambda y, k: np.where(y == y.max(), np.nan, y),
    "infinity": lambda y, k: np.where(y == y.max(), np.inf, y),
    "one too few": lambda y, k: y[:-1],
    "one too many": lambda y, k: np.append(y, 0),
    "none": lambda y, k: y[:0],
    "one number": lambda y, k: y[0],
    "other table": lambda y, k: np.eye(k + 1)[y],
    "two ones": lambda y, k: np.ones((len(y), k)),
    "no ones": lambda y, k: np.zeros((len(y), k)),
    "cube": lambda y, k: np.zeros((len(y), k, 1)),
    "strings": lambda y, k: y.astype(str),
    "objects": lambda y, k: np.full(len(y), Odd(), dtype=object),
    "complex": lambda y, k: y.astype(complex),
    "bools": lambda y, k: y > 0,
    "dates": lambda y, k: y.astype("datetime64[s]"),
    "masked": lambda y, k: np.ma.masked_array(y, mask=y == y.max()),
    "ragged": lambda y, k: [[0], [1, 2]],
    "odd": lambda y, k: Odd(),
    "text": lambda y, k: "y",
}


def _soft(y: Any, k: int) -> Any:
    return (0.8 * np.eye(k)[y] + 0.2 / k).astype(np.float32)


def labels(nb_samples: int, nb_classes: int, *, takes_soft: bool = False) -> Values:
    """Labels of some samples, in the forms that they come in."""

    def made(seed: int, change: Callable[[Any, int], Any]) -> Any:
        return change(np.random.default_rng(seed).integers(0, nb_classes, nb_samples), nb_classes)

    def of(forms: dict[str, Callable[[Any, int], Any]]) -> Strategy:
        return st.builds(made, st.integers(0, 99), st.sampled_from(list(forms.values())))

    soft = {"soft": _soft}
    spoils = _LABEL_SPOILS | {"soft of another sum": lambda y, k: 2 * _soft(y, k)} | ({} if takes_soft else soft)
    return Values(of(_LABEL_FORMS | (soft if takes_soft else {})), of(spoils), of(_ODD_LABEL_FORMS))


def indices_of(y: Any, nb_classes: int) -> Any:
    """What labels mean, as plain class indices; of soft ones the most likely class."""
    table = np.asarray(y.detach() if isinstance(y, torch.Tensor) else y)
    is_table = table.ndim == 2 and table.shape[1] == nb_classes
    return (table.argmax(axis=1) if is_table else table.reshape(-1)).astype(np.int64)
