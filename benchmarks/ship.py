"""What a file takes: its size, its time beside a folded network in float32, and the accuracy in half and int8.

    python -m benchmarks.ship    # 15 minutes on two cores, nothing else running

Networks trained on digits (8x8 images, lam 0, 0.2, 1), a wide ResNet of the size of CIFAR-10 without training, in every
format and precision, at lam 1, and as a whole dial. Files of one network take turns in one process, see ``timing.py``,
with one lam per sample for a dial; ratios are medians over rounds: to the point in float32 of the same format. What is
called plain torch is the folded network itself. Accuracy is that on the test images of digits. Beside the int8 that is
shipped stand the two ways of onnxruntime that it is made of, each for all of the network: ranges of activations known
before, or found out as it runs.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from art_oat import OATClassifier, fold
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset
from art_oat.experiment.build import fit, trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.export import FORMATS, Exported
from art_oat.export.quantization import Batches
from art_oat.export.ship import NB_CALIBRATING
from art_oat.training import Method
from benchmarks.steps import SHAPE, StepSettings, classifier_of, plain_network
from benchmarks.study import Found, run
from benchmarks.tables import Row
from benchmarks.timing import Turns, take_turns

LAM = 1.0
PLAIN, POINT, DIAL = "plain torch", "point", "dial"
LARGE = "wrn-16-2"
BATCH_SIZES = (1, 32)
_DIGITS = Recipe(data="digits", lambdas=(0.0, 0.2, 1.0), method=Method(attack="pgd-3", eps=0.2, eps_step=0.1))
_LAYER_NORMS = {"optimizer": "adamw", "learning_rate": 2e-3, "schedule": "cosine", "lr_warmup": 0.1, "batch_size": 64}
RECIPES = {
    "small-16-32-64": _DIGITS.changed(network="small-16-32-64", nb_epochs=20),
    "wrn-10-1": _DIGITS.changed(network="wrn-10-1", nb_epochs=15),
    "convnext": _DIGITS.changed(network="convnext-32-64", nb_epochs=15, **_LAYER_NORMS),
    "vit": _DIGITS.changed(network="vit", nb_epochs=15, **_LAYER_NORMS),
}
"""By network: how those that are trained on digits are."""


@dataclass(frozen=True)
class File:
    """One file of a network.

    Attributes:
        format: By name, or ``PLAIN``.
        what: ``POINT`` or ``DIAL``.
        precision: Of its weights.
        answer: Runs it on inputs, and on lams for a dial.
        exported: What was found out when it was written; None for the network itself.
    """

    format: str
    what: str
    precision: str
    answer: Callable[..., Tensor]
    exported: Exported | None = None

    @property
    def name(self) -> str:
        return f"{self.format}, {self.what}, {self.precision}"


def trained(recipe: Recipe) -> tuple[OATClassifier, Dataset]:
    """Return a classifier trained by a recipe, and its data."""
    data = recipe.dataset()
    trainer = trainer_for(recipe, data, device_type="cpu")
    return fit(trainer, recipe, data, folder=None, keeps_best=False, verbose=False), data


def untrained() -> OATClassifier:
    """Return a classifier of the large network, whose weights are random."""
    with borrowed_generators(seed=0):
        return classifier_of(plain_network(LARGE), StepSettings(lambdas=_DIGITS.lambdas))


def written(classifier: OATClassifier, data: tuple[Tensor, Tensor], folder: Path) -> list[File]:
    """Write a network in every format and precision, at a point and as a dial; the folded network comes first."""
    network = fold(classifier.model, lam=LAM)
    files = [File(PLAIN, POINT, "float32", network)]
    for name, kind in FORMATS.items():
        if not kind.takes_preprocessing:  # weights alone are run by plain torch
            continue
        for precision in kind.precisions:
            path = folder / f"{precision}{kind.suffixes[0]}"
            exported = classifier.export(path, lam=LAM, precision=precision, data=data)
            files.append(File(name, POINT, precision, _runner(classifier, network, exported), exported))
        exported = classifier.export_dial(folder / f"dial{kind.suffixes[0]}")
        files.append(File(name, DIAL, "float32", _runner(classifier, network, exported), exported))
    return files


def other_ways(classifier: OATClassifier, data: tuple[Tensor, Tensor], folder: Path) -> list[File]:
    """Quantize all of a network in one way, by onnxruntime as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network, (x, y) = fold(classifier.model, lam=LAM), (torch.as_tensor(part) for part in data)
    exported, plain = classifier.export(folder / "float32.onnx", lam=LAM, data=data), folder / "plain.onnx"
    quant_pre_process(exported.path, plain)
    known, found_out = folder / "known.onnx", folder / "found-out.onnx"
    quantize_static(plain, known, Batches("x", x[:NB_CALIBRATING].float()), per_channel=True)
    quantize_dynamic(plain, found_out, weight_type=QuantType.QUInt8)  # onnxruntime runs no ConvInteger of int8
    files = []
    for name, path in {"int8, ranges known": known, "int8, ranges found out": found_out}.items():
        answer = _runner(classifier, network, replace(exported, path=path))
        with torch.no_grad():
            scores, expected = answer(x.float()), network(x.float())
        difference = float((scores - expected).abs().max() / expected.abs().max())
        accuracy = float((scores.argmax(1) == y).double().mean())
        size = path.stat().st_size
        judged = replace(exported, nb_bytes=size, difference=difference, accuracy_after=accuracy)
        files.append(File("onnx", POINT, name, answer, judged))
    return files


def _runner(classifier: OATClassifier, network: nn.Module, exported: Exported) -> Callable[..., Tensor]:
    shipment = classifier._shipment(network, exported.lam, exported.width, [])
    return FORMATS[exported.format].run(exported.path, shipment)


def times(files: list[File], x: Tensor, nb_rounds: int, title: str) -> dict[int, Turns]:
    """Time all files in turns, by size of the batch."""
    found = {}
    for size in BATCH_SIZES:
        batch = x.repeat(-(-size // len(x)), *[1] * (x.dim() - 1))[:size].contiguous()
        lams = torch.linspace(0, 1, size)
        actions = {
            file.name: partial(file.answer, batch) if file.what == POINT else partial(file.answer, batch, lams)
            for file in files
        }
        with torch.no_grad():
            found[size] = take_turns(actions, nb_rounds, f"{title}, batches of {size}")
    return found


def rows(network: str, files: list[File], turns: Mapping[int, Turns], *, is_trained: bool) -> list[Row]:
    """Say of each file what it takes."""
    sizes = {file.format: file.exported.nb_bytes for file in reversed(files) if file.exported is not None}
    return [_row(network, file, turns, sizes, is_trained=is_trained) for file in files]


def _row(network: str, file: File, turns: Mapping[int, Turns], sizes: Mapping[str, int], *, is_trained: bool) -> Row:
    row: Row = {"network": network, "format": file.format, "what": file.what, "precision": file.precision}
    if (exported := file.exported) is not None:
        row |= {"bytes": exported.nb_bytes, "ratio of bytes": f"{exported.nb_bytes / sizes[file.format]:.3f}"}
    else:
        row |= {"bytes": "", "ratio of bytes": ""}
    for size, each in turns.items():
        folded = f"{file.format}, {POINT}, float32"
        low, high = each.spread(file.name, folded)
        row[f"ms, batch {size}"] = f"{1000 * each.median(file.name):.3f}"
        row[f"ratio, batch {size}"] = f"{each.ratio(file.name, folded):.3f}"
        row[f"quartiles, batch {size}"] = f"{low:.3f}-{high:.3f}"
        row[f"rounds dropped, batch {size}"] = each.nb_dropped
    accuracies = exported is not None and is_trained and exported.accuracy_after is not None
    before, after = (exported.accuracy_before, exported.accuracy_after) if accuracies else (None, None)
    row |= {"difference": "" if exported is None else f"{exported.difference:.1e}"}
    return row | {"accuracy before": _percent(before), "accuracy after": _percent(after)}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def measure(given: argparse.Namespace) -> Found:
    found: list[Row] = []
    smoke = {"small-4": _DIGITS.changed(network="small-4", nb_epochs=1, nb_train=100)}
    recipes = smoke if given.smoke else {name: it for name, it in RECIPES.items() if name in given.networks}
    nb_rounds = 1 if given.smoke else given.nb_rounds
    for name, recipe in recipes.items():
        classifier, data = trained(recipe)
        found += _measured(name, classifier, data.test, nb_rounds, is_trained=True)
    if not given.smoke and LARGE in given.networks:
        draw = torch.Generator().manual_seed(0)
        random = torch.rand(256, *SHAPE, generator=draw), torch.randint(10, (256,), generator=draw)
        found += _measured(LARGE, untrained(), random, nb_rounds, is_trained=False)
    return Found({"ship": found}, [0], key=("network", "format", "what", "precision"))


def _measured(
    name: str, classifier: OATClassifier, data: tuple[Tensor, Tensor], nb_rounds: int, *, is_trained: bool
) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        files = [*written(classifier, data, Path(folder)), *other_ways(classifier, data, Path(folder))]
        turns = times(files, torch.as_tensor(data[0]).float(), nb_rounds, name)
    return rows(name, files, turns, is_trained=is_trained)


OPTIONS = {
    "--networks": {"nargs": "+", "default": [*RECIPES, LARGE], "choices": [*RECIPES, LARGE]},
    "--nb-rounds": {"type": int, "default": 15},
}

if __name__ == "__main__":
    run("ship", __doc__, measure, OPTIONS)
