"""What is written and read: models, data sets, recipes, the command line; and the networks that names and sizes mean."""  # noqa: E501

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from art_oat import PGD, Method, load_model, save_model
from art_oat.cli import app
from art_oat.data import load
from art_oat.experiment.numbers import joined
from art_oat.experiment.numbers import numbers as read_numbers
from art_oat.experiment.options import recipe_from
from art_oat.experiment.recipe import Recipe
from art_oat.model_io import Architecture
from art_oat.models import SmallCNN, network_named
from art_oat.training import CSVLogger
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import FLAGS, LAMBDAS, SEEDS, Odd, Values, choices, counts, fixed, numbers
from tests.properties.test_model import WIDTHS

MODEL = subjects.model()
X = torch.rand(2, *subjects.SHAPE, generator=torch.Generator().manual_seed(2))


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


NO_PATHS = st.sampled_from((None, 1, 0.5, True, [], Odd(), ["a"], {}, b"a"))


def saved(**given):
    with folder() as path:
        given["folder"] = path / given["folder"] if isinstance(given["folder"], str) else given["folder"]
        save_model(**given)
        return load_model(given["folder"], subjects.plain())


def same_answers(loaded, given):
    with torch.no_grad():
        assert torch.equal(loaded(X, 0.25, 0.5), MODEL(X, 0.25, 0.5))
    assert loaded.default_point == MODEL.default_point


with folder() as _path:
    save_model(MODEL, _path)
    WEIGHTS, DESCRIPTION = (_path / "model.safetensors").read_bytes(), (_path / "config.json").read_bytes()


def flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << bit
    return bytes(changed)


def damaged(data: bytes) -> Values:
    wrong = st.builds(flipped, st.just(data), st.integers(0, len(data) - 1), st.integers(0, 7))
    cut = st.integers(0, len(data) - 1).map(lambda end: data[:end])
    return Values(
        st.just(data), wrong | cut | st.sampled_from((b"{}", b"null", b"[]", b'{"format": 1}', data + b"0", b"\xff"))
    )


def loaded(**given):
    with folder() as path:
        (path / "model.safetensors").write_bytes(given.pop("weights"))
        (path / "config.json").write_bytes(given.pop("description"))
        return load_model(path, **given)


FILES = {
    "weights": Values(*(damaged(WEIGHTS).right, damaged(WEIGHTS).wrong), names=("model.safetensors",)),
    "description": Values(damaged(DESCRIPTION).right, damaged(DESCRIPTION).wrong, names=("config.json",)),
    "network": fixed(
        subjects.plain(),
        wrong=st.sampled_from((None, "x", Odd(), nn.Linear(2, 2), SmallCNN(1, 3, [4]), MODEL, nn.Linear)),
    ),
}


def edited(name, value) -> bytes:
    description = json.loads(DESCRIPTION)
    description[name] = value
    return json.dumps(description).encode()


EDITS = st.builds(
    edited,
    st.sampled_from(
        (
            "class",
            "architecture",
            "conversion",
            "default_point",
            "dtype",
            "other_dtypes",
            "format",
            "is_lam_named",
            "sha256",
        )
    ),
    st.sampled_from(
        (None, 1, "x", [], {}, {"lam": 5}, {"name": "os.system", "arguments": {}}, [[]], -1.5, {"a": {"b": []}}, True)
    ),
)


def read_back(data, given):
    assert {part.x.dtype for part in data} == {np.dtype(np.float32)}
    assert data.train.x.min() >= 0
    assert data.train.x.max() <= 1
    assert all(len(part.x) == len(part.y) for part in data)
    if given.get("nb_train") is not None:
        assert len(data.train.x) == int(given["nb_train"])
    if given.get("nb_test") is not None:
        assert len(data.test.x) == int(given["nb_test"])


def archive(**arrays):
    with folder() as path:
        np.savez(path / "data.npz", **{name: value for name, value in arrays.items() if value is not None})
        return load(path / "data.npz")


IMAGES, CLASSES = np.random.default_rng(0).random((12, 1, 4, 4), dtype=np.float32), np.arange(12) % 3
NO_IMAGES = (
    IMAGES[0],
    IMAGES * 2,
    -IMAGES - 0.1,
    IMAGES * np.nan,
    IMAGES[:0],
    IMAGES.astype(str),
    IMAGES.astype(complex),
    IMAGES > 0.5,
    np.float32(1),
    IMAGES.round().astype(np.int64),
)
NO_CLASSES = (
    CLASSES[:-1],
    CLASSES - 1,
    CLASSES + 0.5,
    CLASSES * np.nan,
    CLASSES.astype(str),
    CLASSES[:0],
    np.int64(1),
    CLASSES + 1,
    CLASSES.astype(complex),
    np.zeros((12, 3)),
)
ARCHIVE = {
    "x": fixed(
        IMAGES,
        IMAGES.astype(np.float64),
        (IMAGES * 255).astype(np.uint8),
        np.moveaxis(IMAGES, 1, -1),
        wrong=st.sampled_from(NO_IMAGES),
    ).called("x_train"),
    "y": fixed(CLASSES, CLASSES.astype(np.uint8), np.eye(3)[CLASSES], wrong=st.sampled_from(NO_CLASSES)).called(
        "y_train"
    ),
    "x_test": fixed(None, wrong=st.sampled_from((IMAGES,))).called("y_test"),
}

RECIPE = {
    "data": fixed(
        "digits",
        "textured-digits",
        "cifar10",
        wrong=st.sampled_from(("", "no such", "digit", None, 1, [], Odd(), "x.zip")),
    ).called("name_or_path"),
    "nb_train": counts(10, 99).or_none(),
    "network": fixed(
        "resnet18", "small", "small-4-8", wrong=st.sampled_from(("", "resnet", None, 5, [], Odd(), "small-0", "é"))
    ),
    "film": fixed("linear", "two-layer", None, wrong=st.sampled_from(("", 1, [], {}, Odd(), True))),
    "statistics": choices("dual", "shared", "single"),
    "lambdas": LAMBDAS,
    "widths": WIDTHS,
    "heads": choices("shared"),
    "method": fixed(
        Method(), Method.dial(), wrong=st.sampled_from((None, "dial", PGD(0.1), {}, Method(attack=PGD(0.1)), Odd()))
    ),
    "nb_epochs": counts(),
    "batch_size": counts(2, 9),
    "schedule": choices("one-cycle", "cosine", "piecewise", "slow-start", "constant"),
    "lr_warmup": numbers(0, 1, is_low_in=False, is_high_in=False).or_none(),
    "optimizer": choices("sgd", "adamw"),
    "learning_rate": numbers(0, 9, is_low_in=False)
    .or_none()
    .__class__(
        numbers(0, 9, is_low_in=False).or_none().right,
        st.sampled_from((0, -1, "0.1", True, float("nan"), 10**400, [0.1], Odd())),
    ),
    "weight_decay": numbers(0, float("inf")).or_none(),
    "label_smoothing": numbers(0, 1, is_high_in=False),
    "augmentation": choices("auto", "crop-flip", "crop", "none"),
    "channels_last": FLAGS,
    "seed": SEEDS,
}


def as_values(recipe, given):
    """What a file holds of it gives the same recipe."""
    again = Recipe.from_values(json.loads(json.dumps(recipe.as_values())))
    assert again == recipe


def from_options(**given):
    options = dict.fromkeys(_option_names())
    return recipe_from(given.pop("recipe", "dial"), options | given)


def _option_names():
    from art_oat.experiment.options import FILLED, _options

    return [option.name for option in _options(FILLED["train"])]


SPELLED = Values(
    st.lists(st.integers(0, 10).map(lambda n: str(n / 10)), min_size=1, max_size=4),
    st.sampled_from((["x"], ["0.5", ""], [","], ["0,,1"], ["0.1.2"], ["é"])),
)


def read_as(found, given):
    assert found == tuple(float(value) for value in given["values"])


def joined_as(found, given):
    assert found == ["train", "--widths=" + ",".join(given["values"]), "--seed", "1"]


def command(**given):
    """The command line refuses before it does anything."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    with folder() as path:
        run = CliRunner().invoke(app, ["train", "--out", str(path / "run"), *words])
        assert not (path / "run").exists()
    assert run.exit_code == 2, run.output
    text = " ".join(run.output.replace("│", " ").replace("-", "_").split())
    raise ValueError(text.replace("_", "-") + text)


def word(*wrong):
    return Values(st.nothing(), st.sampled_from(wrong))


WORDS = {
    "nb_epochs": word("0", "-1", "x", "1.5", "", "9" * 400, "nan"),
    "batch_size": word("0", "1", "x", "1.5"),
    "lambdas": word("x", "2", "0,0", "nan", "0.5,0.5"),
    "widths": word("x", "0", "0.5", "1,1", "1.5"),
    "eps": word("x", "1/0", "0", "-0.1", "nan", "8/"),
    "attack": word("x", "pgd", "pgd-0"),
    "loss": word("x", ""),
    "norm": word("x", "linf"),
    "ema": word("2", "x", "nan"),
    "network": word("x", ""),
    "schedule": word("x"),
    "optimizer": word("adam"),
    "seed": word("-1", "x", "0.5", str(2**40)),
    "label_smoothing": word("1", "x", "-0.1"),
}


def fresh(build):
    """Fresh weights are drawn from the global generator of torch, as those of any network."""

    def built(**given):
        with torch.random.fork_rng(devices=[]):
            return build(**given)

    return built


def shaped(network, given):
    images = torch.zeros(2, int(given.get("in_channels", 1)), 8, 8)
    with torch.no_grad():
        assert network.eval()(images).shape == (2, int(given.get("nb_classes", 10)))


def of_images(network, given):
    height, width = given.get("image_size", (32, 32))
    with torch.no_grad():
        x = torch.zeros(1, int(given.get("in_channels", 3)), int(height), int(width))
        assert network.eval()(x).shape == (1, int(given.get("nb_classes", 10)))


CHANNELS = Values(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from((None, [], 4, "4", [0], [-1], [1.5], ["4"], [True], [None], Odd(), {}, b"\4")),
)
SIZES = Values(
    st.sampled_from(((8, 8), [8, 12], (np.int64(8), 8))),
    st.sampled_from((None, 8, (8,), (8, 8, 8), (0, 8), (8, -8), (8, 8.5), "88", ("8", 8), Odd(), b"\x08\x08")),
)

ENTRIES = [
    Entry(
        "save_model",
        saved,
        {
            "model": fixed(MODEL, wrong=st.sampled_from((None, subjects.plain(), "x", Odd(), MODEL.pinned(0.0)))),
            "folder": Values(st.sampled_from(("new", "a/b", "é")), NO_PATHS),
            "architecture": fixed(
                None, Architecture("SmallCNN", {}), wrong=st.sampled_from(("SmallCNN", {}, 1, Odd(), SmallCNN))
            ),
        },
        ("model", "folder"),
        same_answers,
        lambda: [MODEL],
    ),
    Entry(
        "load_model",
        loaded,
        FILES,
        ("weights", "description", "network"),
        same_answers,
        lambda: [subjects.plain()],
        nb_cases=150,
    ),
    Entry(
        "load_model of an edited description",
        loaded,
        {
            "weights": Values(st.just(WEIGHTS)),
            "description": Values(st.nothing(), EDITS, names=("config.json", "network")),
            "network": Values(st.just(subjects.plain())),
            "check": Values(st.booleans()),
        },
        ("weights", "description", "network"),
        kinds=("refused",),
        nb_cases=60,
    ),
    Entry(
        "load_model(folder)",
        load_model,
        {"folder": Values(st.nothing(), NO_PATHS | st.sampled_from(("/no/such", "", "\0", "a" * 5000)))},
        ("folder",),
        kinds=("refused",),
        nb_cases=20,
    ),
    Entry(
        "Architecture",
        Architecture,
        {
            "name": fixed(
                "SmallCNN", "resnet18", wrong=st.sampled_from(("", "ImageTask", None, 1, [], Odd(), "os"))
            ).called("architecture"),
            "arguments": fixed({}, {"nb_classes": 3}, wrong=st.sampled_from((None, 1, "x", [], [1], Odd()))),
        },
        ("name", "arguments"),
    ),
    Entry(
        "load",
        load,
        {
            "name_or_path": fixed(
                "digits",
                wrong=st.sampled_from(
                    ("", "no such", None, 1, 0.5, [], Odd(), "/no/such.npz", "x.txt", "\0.npz", b"digits")
                ),
            ),
            "folder": fixed(None, wrong=st.sampled_from(("/tmp", 1, Odd()))),
            "seed": SEEDS,
            "nb_train": counts(30, 99).or_none(),
            "nb_test": counts(1, 99).or_none(),
            "download": FLAGS,
        },
        ("name_or_path",),
        read_back,
        nb_cases=60,
    ),
    Entry("load of an archive", archive, ARCHIVE, ("x", "y"), read_back, nb_cases=80),
    Entry("Recipe", lambda **it: Recipe(**it), RECIPE, ("data",), as_values, nb_cases=120),  # noqa: PLW0108
    Entry(
        "CLI numbers",
        lambda values: read_numbers("widths", values),
        {"values": SPELLED.called("widths")},
        ("values",),
        read_as,
    ),
    Entry(
        "CLI joined",
        lambda values: joined(["train", "--widths", *values, "--seed", "1"]),
        {"values": Values(SPELLED.right)},
        ("values",),
        joined_as,
        kinds=("right",),
    ),
    Entry(
        "art-oat train",
        lambda **it: command(data="digits", **it),
        WORDS,
        kinds=("refused",),
        conflicts=lambda given: () if given else ("nothing",),
        nb_cases=40,
    ),
    Entry(
        "SmallCNN",
        fresh(SmallCNN),
        {"in_channels": counts(1, 3), "nb_classes": counts(1, 4), "channels": CHANNELS},
        (),
        shaped,
    ),
    Entry(
        "network_named",
        fresh(network_named),
        {
            "name": fixed(
                "small",
                "small-4",
                "small-4-8",
                wrong=st.sampled_from(("", "x", None, 1, [], Odd(), "small-0", "small-", "é")),
            ).called("network"),
            "in_channels": counts(1, 3),
            "nb_classes": counts(1, 4),
            "image_size": SIZES,
        },
        ("name",),
        of_images,
    ),
    Entry(
        "CSVLogger",
        lambda path: CSVLogger(path).faults(None),
        {"path": fixed("x.csv", Path("y.csv"))},
        ("path",),
        kinds=("right",),
        nb_cases=2,
    ),
]


@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_what_is_written_is_read_and_all_else_refused_by_name(entry):
    entry.try_many()
