"""The options of commands: one for every field with a help text of the dataclasses that a command fills."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from art_oat.attacks import format_eps, parse_eps
from art_oat.experiment.baselines import BASELINES, recipe_named
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.numbers import numbers, radius
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.submission import Submission
from art_oat.training import Method, StratifiedSampling
from art_oat.training.method import METHODS

FILLED: Mapping[str, tuple[type, ...]] = {
    "train": (Recipe, Method),
    "sweep": (Recipe, Method),
    "evaluate": (Measurement,),
    "robustbench": (Submission,),
}
"""What the options of a command fill."""
_OTHER_NAMES = {"weight_perturbation": "awp", "sampling": "weight_of_one", "attacks": "attack"}
_PANELS = {Recipe: "Data, network and optimization", Method: "Method", Measurement: "Measurement", Submission: "Entry"}
_MANY_NUMBERS, _MANY_NAMES = tuple[float, ...], tuple[str, ...]


@dataclass(frozen=True)
class _Option:
    """An option: the field that makes it, of which class, and the types that the field takes."""

    owner: type
    field: Field[Any]
    kinds: tuple[Any, ...]

    @property
    def name(self) -> str:
        return _OTHER_NAMES.get(self.field.name, self.field.name)

    @property
    def kind(self) -> Any:
        """What is written on the command line."""
        if _MANY_NUMBERS in self.kinds or _MANY_NAMES in self.kinds:
            return list[str]
        known = [kind for kind in (bool, int, float) if kind in self.kinds]
        return float if self.name == "weight_of_one" else known[0] if known else str

    @property
    def is_open(self) -> bool:
        """Whether the named methods have different values, so that there is no one default."""
        methods = [*(make() for make in METHODS.values()), *(Method(**each.parts) for each in BASELINES.values())]
        return self.owner is Method and len({repr(getattr(method, self.field.name)) for method in methods}) > 1

    @property
    def takes_none(self) -> bool:
        """Whether ``''`` or 0 stand for none of what a named method has."""
        return self.is_open and type(None) in self.kinds

    @property
    def is_one_sided(self) -> bool:
        """Whether a flag can only be raised, as nothing raises it but the command line."""
        return self.owner is not Method and self.field.default is not None

    @property
    def help(self) -> str:
        text: str = self.field.metadata["help"].rstrip(".")
        if self.takes_none:
            text += ", '' for none" if self.kind is str else ", 0 for none"
        if self.is_open:
            text += "; the recipe's if not given"
        default: Any = self.field.default
        if self.kind == list[str] and default:
            shown = [f"{one:g}" if isinstance(one, float) else one for one in default]
            text += f"; {' '.join(shown)} if not given"
        return f"{text}."

    def parameter(self) -> inspect.Parameter:
        """Return it as typer reads it off a function."""
        options: dict[str, Any] = {"help": self.help, "rich_help_panel": _PANELS[self.owner]}
        options |= {name: value for name, value in self.field.metadata.items() if name in ("min", "max")}
        default = None if self.is_open or self.kind == list[str] else self.field.default
        if self.name in ("eps", "eps_step"):
            options |= {"metavar": "NUMBER", "parser": radius(self.name)}
            options |= {"show_default": format_eps(default)} if default else {}
        if _MANY_NUMBERS in self.kinds:
            options["metavar"] = "NUMBERS"
        if self.kind is bool:
            options["show_default"] = False
        names = [f"--{self.name.replace('_', '-')}"] if self.kind is bool and self.is_one_sided else []
        kind: Any = self.kind | None if default is None else self.kind
        annotation = Annotated[kind, typer.Option(*names, **options)]
        default = inspect.Parameter.empty if default is MISSING else default
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def read(self, value: Any) -> Any:
        """Return what the field gets."""
        if self.name == "weight_of_one":
            return StratifiedSampling({1.0: value})
        if _MANY_NUMBERS in self.kinds:
            return numbers(self.name, value)
        if _MANY_NAMES in self.kinds:
            return tuple(value)
        return value or None if self.takes_none else value

    def written(self, value: Any) -> list[str]:
        """Return the words that :meth:`read` makes a value of; none where no words do."""
        name = f"--{self.name.replace('_', '-')}"
        if self.kind is bool:
            return [name if value else f"--no-{name[2:]}"]
        if isinstance(value, StratifiedSampling):
            value = value.weights.get(1.0) if set(value.weights) == {1.0} else None
        elif value is None and self.takes_none:
            value = "" if self.kind is str else 0
        if _MANY_NAMES in self.kinds:
            return [word for one in value for word in (name, one)]
        if _MANY_NUMBERS in self.kinds:
            value = ",".join(f"{one:g}" if float(f"{one:g}") == one else repr(one) for one in value)
        if self.name in ("eps", "eps_step") and value is not None and parse_eps(format_eps(value)) == value:
            value = format_eps(value)
        return [] if value is None else [name, str(value)]


def option_names() -> dict[str, str]:
    """Return the names of options by those of the fields they fill, where these differ."""
    return {field: f"--{name.replace('_', '-')}" for field, name in _OTHER_NAMES.items()}


def _options(owners: tuple[type, ...]) -> Iterator[_Option]:
    taken: set[str] = set()
    for owner in owners:
        hints = get_type_hints(owner)
        for field in fields(owner):
            if "help" in field.metadata and field.name not in taken:
                taken.add(field.name)
                yield _Option(owner, field, (hints[field.name], *get_args(hints[field.name])))


def with_options(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose ``**given`` are the options of this name, as typer reads them off its signature.

    A parameter of its own comes before the option of that name.
    """

    @functools.wraps(command)
    def whole(**given: Any) -> None:
        command(**given)

    parameters = inspect.signature(command, eval_str=True).parameters
    own = [it for it in parameters.values() if it.kind is not it.VAR_KEYWORD]
    every = own + [it.parameter() for it in _options(FILLED[name]) if it.name not in parameters]
    whole.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    whole.__annotations__ = {it.name: it.annotation for it in every}
    return whole


def read(owner: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass that options fill."""
    owners = next(owners for owners in FILLED.values() if owner in owners)
    options = _options(owners)
    return {
        option.field.name: option.read(given[option.name])
        for option in options
        if option.owner is owner and given.get(option.name) not in (None, [])
    }


def recipe_from(name: str, given: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """Return the recipe that options mean; what is not given is that of a name, or of another recipe."""
    recipe, method = read(Recipe, given), read(Method, given)
    if base is not None:
        return base.changed(**recipe, **method)
    if "sampling" in method and 1.0 not in recipe.get("lambdas", Recipe.lambdas):
        raise ValueError("weight_of_one needs lam 1 among lambdas.")
    return recipe_named(name, recipe, method)


def arguments(filled: Any, usual: Any) -> list[str]:
    """Return the options that make what a command fills out of what is filled without them.

    Args:
        filled: A :class:`Recipe`, whose method's options come after its own, or a :class:`Measurement`.
        usual: Another one of its class, which is what a command has where nothing is said.
    """
    words = []
    for option in _options((type(filled),)):
        value = getattr(filled, option.field.name)
        if value != getattr(usual, option.field.name):
            words += option.written(value)
    return words + (arguments(filled.method, usual.method) if isinstance(filled, Recipe) else [])
