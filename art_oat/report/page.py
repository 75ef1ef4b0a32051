"""Writes the page: one file of HTML that holds its style, script, images and values, and asks no network for more."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from art_oat.attacks import format_eps
from art_oat.report import figures
from art_oat.report.collect import Report
from art_oat.report.samples import Breakage
from art_oat.storage import write_whole


def write_page(report: Report, path: str | Path) -> None:
    """Write the page of a run.

    Args:
        report: What :func:`~art_oat.report.collect` found.
        path: The file, usually ``report.html``.
    """
    with write_whole(Path(path)) as file:
        file.write(html(report))


def html(report: Report) -> str:
    """Return the page; all that comes from files is escaped, and no script but its own may run in it."""
    environment = Environment(
        loader=PackageLoader("art_oat", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (files("art_oat").joinpath("report", name).read_text("utf-8") for name in ("page.js", "page.css"))
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        report=report,
        figures=figures,
        title=f"{report.recipe.network} on {Path(report.recipe.data).name}, {report.norm} eps {format_eps(report.eps)}",
        script=Markup(script),  # noqa: S704 - ours
        style=Markup(style),  # noqa: S704 - ours
        script_hash=hashed,
        values=values(report),
        settings=list(_flat(report.recipe.as_values())),
        class_table=class_table(report),
        breakage_table=breakage_table(report),
    )


def values(report: Report) -> dict[str, Any]:
    """Return what the script of the page works with, as JSON can hold it; states are by width, in the order of lams."""
    states: dict[str, list[dict[str, Any]]] = {}
    for state in report.gallery.states if report.gallery else ():
        answers = {name: [list(answer) for answer in getattr(state, name)] for name in ("clean", "attacked")}
        states.setdefault(_key(state.width), []).append({**answers, "images": state.images})
    measured: dict[str, dict[int, str]] = {_key(width): {} for width in report.widths}
    for point in report.curve.points if report.curve else ():
        clean = figures.percent(point.clean, point.clean_error)
        told = f"clean {clean}, robust {figures.percent(point.robust, point.robust_error)}"
        measured.setdefault(_key(point.width), {})[report.lams.index(point.lam)] = told
    return {
        "lams": report.lams,
        "trained": report.trained,
        "widths": report.widths,
        "classes": report.classes,
        "labels": report.gallery.labels if report.gallery else [],
        "states": states,
        "measured": measured,
    }


def _key(width: float) -> str:
    """Write a width as JavaScript does when it makes a name of a number: 1, 0.5."""
    return f"{width:.0f}" if width.is_integer() else repr(width)


def class_table(report: Report) -> dict[float, dict[str, Any]]:
    """Return by width the lams, and by class name the accuracies, clean and robust, at each."""
    found: dict[float, dict[str, Any]] = {}
    for it in report.per_class:
        table = found.setdefault(it.width, {"lams": [], "rows": {}})
        if it.lam not in table["lams"]:
            table["lams"].append(it.lam)
        row = table["rows"].setdefault(it.label, {"name": report.classes[it.label], "nb": it.nb_samples, "cells": []})
        row["cells"].append({"lam": it.lam, "clean": it.clean, "robust": it.robust})
    return dict(sorted(found.items(), reverse=True))


def breakage_table(report: Report) -> dict[float, dict[str, Any]]:
    """Return by width the lams, and what broke images at each."""
    found: dict[float, dict[str, Any]] = {}
    for width in dict.fromkeys(it.width for it in report.breakages):
        own: list[Breakage] = [it for it in report.breakages if it.width == width]
        found[width] = {"lams": sorted({lam for it in own for lam in it.counts}), "rows": own}
    return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values of a recipe, those of its parts with the name of the part before them."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _shown(name, value)


def _shown(name: str, value: Any) -> str:
    if name in ("eps", "eps_step") and isinstance(value, float):
        return format_eps(value)
    if isinstance(value, tuple | list):
        return ", ".join(_shown("", it) for it in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown('', it)}" for key, it in value.items()) or "none"
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
