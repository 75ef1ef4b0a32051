"""The ``README.md`` of a saved model, as the Hugging Face Hub reads it: what it is, its use, what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from art_oat.attacks import display_name, format_eps
from art_oat.checks import path_faults, refuse
from art_oat.evaluation.text import accuracy_columns
from art_oat.evaluation.tradeoff import TradeoffCurve
from art_oat.frontier import MeasuredPoint
from art_oat.model_files import WEIGHTS, described_by
from art_oat.models.registry import network_kind
from art_oat.numbers import KindFault, shown
from art_oat.storage import digest, read_json, write_whole
from art_oat.table import Table

CARD = "README.md"
_SEAL = "<!-- Written by art_oat; sha256 of all above: {} -->\n"
_SEALED = re.compile(r"(?s)(.*)" + re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{64})"))
_ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "mnist": "ylecun/mnist", "svhn": "ufldl-stanford/svhn"}
_PATHS = ("data", "pretrained")
_TAGS = ["adversarial-robustness", "adversarial-training", "once-for-all", "image-classification"]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says that neither the model nor its curve knows.

    Args:
        data: What was measured on: a name of :func:`art_oat.data.load`, or another.
        name: What the model is called; None for the name of its folder.
        license: An identifier of the Hub, such as ``"mit"``; None to name none.
        clip_values: Range of the images that the model itself takes, which is all that its folder holds: what a
            classifier does to them before is not in it.
        recipe: How it was trained, as JSON can hold it; None to say nothing of it.
        version: Of art_oat, by which it was trained; None for unknown.

    Raises:
        TypeError: If a text is none.
    """

    data: str
    name: str | None = None
    license: str | None = None
    clip_values: tuple[float, float] = (0.0, 1.0)
    recipe: Mapping[str, Any] | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        texts = {"data": self.data, "name": self.name or "", "license": self.license or ""}
        refuse([KindFault(f"{key} must be text, got {shown(it)}.") for key, it in texts.items() if type(it) is not str])


def write_card(folder: str | Path, curve: TradeoffCurve, facts: CardFacts, *, overwrites: bool = False) -> Path:
    """Write the ``README.md`` of a model that ``save_model`` wrote: the folder is one that the Hugging Face Hub takes.

    Its front matter has what the Hub reads: tags, data set, and every accuracy of the curve (``model-index``). The text
    has the curve as a table, the lines that load and use the model, the recipe, and the digest of the weights. Paths of
    this machine are not in it. The same model and curve give the same bytes.

    Args:
        folder: Holds the model.
        curve: What was measured of it.
        facts: The rest.
        overwrites: Whether a ``README.md`` goes that is none of ours, or was changed since.

    Returns:
        The file.

    Raises:
        FileExistsError: If there is such a one, and it may not.
        FileNotFoundError: If there is no model.
        TypeError: If an argument is of another kind.
    """
    faults = path_faults({"folder": folder})
    if not isinstance(curve, TradeoffCurve):
        faults.append(KindFault(f"curve must be a TradeoffCurve, got {shown(curve)}."))
    refuse(faults)
    folder = Path(folder)
    path = folder / CARD
    if path.exists() and not overwrites and not is_ours(path):
        raise FileExistsError(f"{path} must not be lost: it was changed, or is of somebody else. Delete or rename it.")
    name = facts.name or folder.resolve().name
    parts = [
        _front_matter(name, curve, facts),
        _introduction(name, read_json(described_by(folder)), facts),
        _measurement(curve, facts),
        _origin(folder, facts),
    ]
    text = "\n".join(parts)
    with write_whole(path) as file:
        file.write(text + _SEAL.format(digest(text.encode())))
    return path


def is_ours(path: Path) -> bool:
    """Whether a file is a card that :func:`write_card` wrote, and nobody has changed."""
    try:
        found = _SEALED.fullmatch(path.read_bytes().decode())
    except UnicodeDecodeError:
        return False
    return found is not None and digest(found[1].encode()) == found[2]


def _front_matter(name: str, curve: TradeoffCurve, facts: CardFacts) -> str:
    on_the_hub = _ON_THE_HUB.get(facts.data)
    results = {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": {"type": on_the_hub or _plain_name(facts.data), "name": _plain_name(facts.data), "split": "test"},
        "metrics": [metric for point in curve.points for metric in _metrics(point, curve)],
    }
    content = {
        "library_name": "art_oat",
        "pipeline_tag": "image-classification",
        **({} if facts.license is None else {"license": facts.license}),
        "tags": _TAGS,
        **({} if on_the_hub is None else {"datasets": [on_the_hub]}),
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [results]}],
    }
    return "\n".join(["---", *_yaml(content), "---", ""])


def _metrics(point: MeasuredPoint, curve: TradeoffCurve) -> Iterator[dict[str, Any]]:
    where = f"lam {point.lam:g}, width {point.width:g}"
    dials = {"lam": point.lam, "width": point.width}
    yield {
        "type": "accuracy",
        "value": round(point.clean, 4),
        "name": f"clean accuracy at {where}",
        "args": dials | {"nb_images": point.nb_clean, "standard_error": round(point.clean_error, 4)},
    }
    attack = {"attack": ", ".join(map(display_name, point.by_attack)), "norm": curve.norm, "eps": format_eps(curve.eps)}
    yield {
        "type": "robust_accuracy",
        "value": round(point.robust, 4),
        "name": f"robust accuracy at {where}",
        "args": dials | attack | {"nb_images": point.nb_robust, "standard_error": round(point.robust_error, 4)},
    }


def _yaml(content: Mapping[str, Any]) -> Iterator[str]:
    """Write plain values as YAML, whose scalars may be those of JSON."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield f"{name}:"
            yield from (f"  {line}" for line in _yaml(value))
        elif isinstance(value, list):
            yield f"{name}:"
            for item in value:
                lines = list(_yaml(item)) if isinstance(item, Mapping) else [_scalar(item)]
                yield f"- {lines[0]}"
                yield from (f"  {line}" for line in lines[1:])
        else:
            yield f"{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    is_exponent_bare = isinstance(value, float) and "e" in text and "." not in text
    return text.replace("e", ".0e") if is_exponent_bare else text  # 1e-05 is text in YAML 1.1


def _introduction(name: str, description: Mapping[str, Any], facts: CardFacts) -> str:
    architecture, more = description["architecture"], ""
    task = {} if architecture is None else architecture["arguments"]
    if architecture is None:
        more = ", network"
    elif architecture["name"] == "network_named" and not network_kind(task["name"]).is_trusted:
        more = ", trusts_network=True"
    is_shape_known = {"in_channels", "image_size"} <= task.keys()
    shape = ", ".join(map(str, [task["in_channels"], *task["image_size"]])) if is_shape_known else "C, H, W"
    low, high = facts.clip_values
    return f"""# {name}

One network, two dials, turned after training: `lam` (0: accuracy on clean images, 1: robustness to attacks) and `width`
(fraction of channels). Once-for-all adversarial training ([Wang et al. 2020](https://arxiv.org/abs/2010.11828)) by the
Python library `art_oat`.

## Use

```python
import art_oat

model = art_oat.load_model("path/to/this/folder"{more})  # or huggingface_hub.snapshot_download("USER/NAME")
logits = model(images, lam=0.3)  # images: [N, {shape}], from {low:g} to {high:g}
network = art_oat.fold(model, lam=0.3)  # an ordinary network for this point, to ship
```
"""


def _measurement(curve: TradeoffCurve, facts: CardFacts) -> str:
    points = curve.points
    attacks = " and ".join(display_name(name) for name in points[0].by_attack)
    text = f"""## What was measured

Accuracy in percent on the test part of {_plain_name(facts.data)} ± one standard error; in brackets, on how many images.
Attacks: {attacks} in {curve.norm}, eps {format_eps(curve.eps)}, at each point on its own network. The worst case is the
share of images that none of these attacks broke; another attack may break more.
"""
    table = Table(accuracy_columns(points)).to_markdown()
    warnings = [f"- At lam {it.lam:g}, width {it.width:g}: {warning}" for it in points for warning in it.warnings]
    return "\n".join([text, table, "", *([*warnings, ""] if warnings else [])])


def _origin(folder: Path, facts: CardFacts) -> str:
    sha256 = digest(folder / WEIGHTS)
    lines = ["## Where it comes from", "", f"SHA-256 of `{WEIGHTS}`: `{sha256}`.", ""]
    recipe = facts.recipe
    if recipe is None:
        return "\n".join(lines)
    shareable = {key: _plain_name(it) if key in _PATHS and it else it for key, it in recipe.items()}
    shareable.pop("data_folder", None)
    by = "" if facts.version is None else f" by art_oat {facts.version}"
    return "\n".join(
        [*lines, f"Trained{by} with this recipe:", "", "```json", json.dumps(shareable, indent=2), "```", ""]
    )


def _plain_name(data: str) -> str:
    """Return what a data set is called, of a path the last part: where it lies concerns nobody."""
    return Path(data).name
