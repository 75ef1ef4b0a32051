"""Parts import leftwards only: condition -> layers -> model -> surgery -> classifier -> ... -> cli."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import art_oat

ROOT = Path(art_oat.__file__).parent
ORDER = [
    {"condition", "contexts", "rebuild", "checks", "storage", "models"},
    {"data", "watch"},
    {"layers"},
    {"pinned"},
    {"model"},
    {"surgery"},
    {"transfer"},
    {"classifier"},
    {"attacks", "frontier"},
    {"training", "evaluation"},
    {"experiment"},
    {"cli"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
TORCH_ALONE = {
    "condition",
    "contexts",
    "rebuild",
    "watch",
    "layers",
    "pinned",
    "model",
    "surgery",
    "models",
}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Everything a module imports when it runs; what only annotations need does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_what_stands_left_of_it(path):
    part = part_of(path)
    for name in imports(path):
        if name.startswith("art_oat."):
            other = name.split(".")[1]
            assert other == part or RANK[other] < RANK[part], f"{part} must not import {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_networks_side_needs_torch_alone(path):
    if part_of(path) in TORCH_ALONE:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"art", "numpy", "sklearn", "torchattacks", "pyautoattack", "torchvision"}


def test_nothing_imports_torchvision():
    assert not any(name.startswith("torchvision") for path in MODULES for name in imports(path))


def test_public_names_are_few_sorted_and_documented():
    names = art_oat.__all__
    assert len(names) <= 25
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in names:
        assert getattr(art_oat, name).__doc__, f"{name} has no docstring"


@pytest.mark.parametrize(
    ("arguments", "is_light"),
    [
        (["-c", "import art_oat"], True),
        (["-m", "art_oat.cli", "--help"], True),
        (["-c", "import art_oat; art_oat.transfer.adapt, art_oat.OATTrainer"], False),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(arguments, is_light):
    run = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {line.split("|")[2].strip() for line in run.stderr.splitlines() if line.count("|") == 2}
    assert not ({"torch", "art", "numpy"} & imported if is_light else {"torch", "art", "numpy"} - imported)


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    # tested with what uses them
    untested = {"__init__", "text", "plots", "transferability_plot", "batches", "records", "protocol", "demo"}
    for path in MODULES:
        if path.stem not in untested:
            mirrored = tests / path.relative_to(ROOT).with_name(f"test_{path.name}")
            assert mirrored.exists(), f"{mirrored} is missing"
