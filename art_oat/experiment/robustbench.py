"""An operating point as a submission to RobustBench: its network as a function, attacked images, and its JSON."""

from __future__ import annotations

import importlib.util
import io
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat.attacks import is_correct
from art_oat.classifier.device import named_device
from art_oat.condition import OperatingPoint
from art_oat.data import Dataset
from art_oat.evaluation import AutoAttackWarning, EvaluationOptions, ThreatModel, evaluate
from art_oat.evaluation.shards import kept_examples
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run, nb_workers_for
from art_oat.experiment.submission import Submission
from art_oat.group import ALONE
from art_oat.lock import locked
from art_oat.model_io import load_model, save_model
from art_oat.models.registry import network_kind
from art_oat.storage import write_bytes, write_json

MODEL = "model.py"
_STATE = "evaluation"
_SOURCE = '''"""{name}: for robustbench.benchmark(load_model(), ...). Needs art_oat."""

from pathlib import Path

import art_oat


def load_model():
    """Return the network at lam {lam:g}, width {width:g}: images [N, {shape}] in [0, 1] to scores [N, {nb_classes}]."""
    model = art_oat.load_model(Path(__file__).parent{trust})
    return art_oat.fold(model, lam={lam!r}, width={width!r})
'''


@dataclass(frozen=True)
class Submitted:
    """What was written.

    Attributes:
        entry: The JSON of the leaderboard.
        files: Where it is, where the attacked images are, and where the function is that gives the network.
        nb_images: How many images were attacked.
        reservations: What RobustBench would not take.
    """

    entry: dict[str, Any]
    files: tuple[Path, Path, Path]
    nb_images: int
    reservations: list[str]


def submit(run: Run, submission: Submission, folder: str | Path, *, nb_workers: int | None = None) -> Submitted:
    """Write one operating point as RobustBench takes it, measured by AutoAttack on the network as it was written.

    The folder gets the model, ``model.py`` whose ``load_model()`` returns the folded network, ``NAME.pt`` with the
    attacked images ``[N, C, H, W]`` in ``[0, 1]``, in the order of the test images, and ``NAME.json``. Its accuracies
    are those of that network on the test images and on the attacked ones, so that anybody can recompute them. What was
    cut short is gone on with.

    Args:
        run: Where the network was trained.
        submission: Which point, how it is attacked, and what is said of it.
        folder: Where the files go; made where it is missing.
        nb_workers: How many shards to attack at once; None for one per core, or one where there is a GPU.

    Raises:
        FileNotFoundError: If the run holds no network.
        ValueError: If a value does not fit the run, or ``folder`` is that of a run.
        RuntimeError: If another process works in either folder.
    """
    folder = Path(folder)
    if (folder / "run.json").exists() or folder.resolve() == run.folder.resolve():
        raise ValueError(f"out must be another folder than that of a run, got {folder}.")
    with run.held(), locked(folder, run.say):
        recipe = run.recipe
        data = recipe.dataset()
        threat = submission.checked_threat(recipe, len(data.test.x))
        model = load_model(run.folder, trusts_network=run.trusts_network)
        point = model.point(submission.lam, submission.width)
        name = submission.name or f"{run.folder.resolve().name}_lam{point.lam:g}_width{point.width:g}"
        save_model(model, folder, recipe.architecture(data))
        write_bytes(folder / MODEL, _source(name, point, recipe, data).encode())
        attacked = _attacked(run, submission, folder, data, threat, nb_workers)
        paths = (folder / f"{name}.json", folder / f"{name}.pt", folder / MODEL)
        entry = submission.entry(recipe, threat, attacked.accuracies, is_doubtful=attacked.is_doubtful)
        write_bytes(paths[1], _packed(attacked.x_adv))
        write_json(paths[0], entry)
        shutil.rmtree(folder / _STATE, ignore_errors=True)
        return Submitted(entry, paths, len(attacked.x_adv), submission.reservations(recipe, threat, data))


def network_in(folder: Path) -> nn.Module:
    """Return what ``load_model()`` of the ``model.py`` in a folder returns; it runs that file."""
    spec = importlib.util.spec_from_file_location("_submitted", folder / MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load_model()
    return network


def _source(name: str, point: OperatingPoint, recipe: Recipe, data: Dataset) -> str:
    trust = "" if network_kind(recipe.network).is_trusted else ", trusts_network=True"
    shape = ", ".join(map(str, data.input_shape))
    values = {"lam": point.lam, "width": point.width, "shape": shape, "nb_classes": data.nb_classes}
    return _SOURCE.format(name=name, trust=trust, **values)


@dataclass(frozen=True)
class _Attacked:
    """Attacked images, the accuracies without and with attack, and whether AutoAttack doubts the latter."""

    x_adv: Tensor
    accuracies: tuple[float, float]
    is_doubtful: bool


def _attacked(
    run: Run, submission: Submission, folder: Path, data: Dataset, threat: ThreatModel, nb_workers: int | None
) -> _Attacked:
    """Attack the network that a folder gives, as it stands there."""
    x, y = (part[: submission.nb_images] for part in data.test)
    device_type = "gpu" if run.device_type != "cpu" and torch.cuda.is_available() else "cpu"
    network, loss = network_in(folder), nn.CrossEntropyLoss()
    own = {"clip_values": (0, 1), "device_type": device_type}
    classifier = PyTorchClassifier(network, loss, data.input_shape, data.nb_classes, **own)
    nb_shards = -(-len(x) // submission.shard_size)
    run.say(f"Attacking {len(x)} of {len(data.test.x)} test images, on {named_device(classifier.device)} ...")
    options = EvaluationOptions(
        shard_size=submission.shard_size,
        seed=submission.seed,
        state=folder / _STATE,
        nb_workers=nb_workers or nb_workers_for(classifier.device, nb_shards, ALONE),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AutoAttackWarning)  # the entry says it
        report = evaluate(classifier, x, y, eps=threat, options=options)
    x_adv = kept_examples(folder / _STATE, report.attack)
    labels = torch.from_numpy(y).to(classifier.device)
    shares = [
        float(is_correct(network, it.to(labels.device), labels).double().mean()) for it in (torch.from_numpy(x), x_adv)
    ]
    return _Attacked(x_adv, (shares[0], shares[1]), bool(report.warnings))


def _packed(x_adv: Tensor) -> bytes:
    """Return a tensor as ``torch.save`` writes it."""
    file = io.BytesIO()
    torch.save(x_adv, file)
    return file.getvalue()
