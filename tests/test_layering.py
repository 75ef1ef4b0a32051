"""Parts import leftwards only: condition -> layers -> model -> surgery -> classifier -> ... -> cli."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import art_oat

ROOT = Path(art_oat.__file__).parents[1]
ORDER = [
    {"compiled", "contexts", "draws", "exporters", "fields", "launch", "leftovers", "levels", "numbers", "table"},
    {"condition", "threads", "rebuild", "checks", "storage"},
    {"data", "fingerprint", "group", "lock", "model_files", "models", "watch"},
    {"layers"},
    {"pinned"},
    {"model"},
    {"network_kinds"},
    {"surgery"},
    {"export", "transfer"},
    {"classifier", "model_io"},
    {"attacks", "frontier"},
    {"training", "evaluation"},
    {"experiment"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
TORCH_SIDE = {"layers", "pinned", "model", "network_kinds", "surgery", "models"}
TORCH_ALONE = {"condition", "contexts", "draws", "fields", "launch", "numbers", "rebuild", "table", "threads", "watch"}
TORCH_ALONE |= TORCH_SIDE | {"compiled", "exporters"}
NOT_TORCH = {"art", "numpy", "sklearn", "torchattacks", "pyautoattack"}
MODULES = sorted(
    path for path in (ROOT / "art_oat").rglob("*.py") if path.parent != ROOT / "art_oat" or path.stem != "__init__"
)
MAX_LINES, MAX_FUNCTION_LINES = 300, 40


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Everything that a file imports, whenever, and be it for annotations alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_files(path: Path) -> set[Path]:
    """The files of this repository that a file imports; for a package its ``__init__``."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        for whole in (parts, parts[:-1]):
            target = ROOT.joinpath(*whole)
            if whole and (target.with_suffix(".py").exists() or (target / "__init__.py").exists()):
                found.add(target.with_suffix(".py") if target.with_suffix(".py").exists() else target / "__init__.py")
                break
    return found - {path}


def test_a_part_imports_only_what_is_left_of_it_and_the_networks_side_torch_alone():
    for path in MODULES:
        part = part_of(path)
        for root, _, rest in (name.partition(".") for name in imports(path)):
            other = rest.split(".")[0] if root == "art_oat" else part
            assert other == part or RANK[other] < RANK[part], f"{path} must not import {other}"
            assert root not in (NOT_TORCH | {"torchvision"} if part in TORCH_ALONE else {"torchvision"}), path


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("folder", "others"), [("art_oat", {"tests", "benchmarks"}), ("benchmarks", {"tests"}), ("tests", set())]
)
def test_no_files_import_each_other_in_a_circle_and_studies_and_library_import_no_tests(folder, others):
    graph = {path: imported_files(path) for path in files(folder) if path != ROOT / "art_oat" / "__init__.py"}
    assert list(graphlib.TopologicalSorter(graph).static_order())
    for path in graph:
        assert not others & {name.split(".")[0] for name in imports(path)}, path


def test_public_names_are_few_sorted_documented_and_loaded_on_first_use():
    tree = ast.parse((ROOT / "art_oat" / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(it.value)
        for it in ast.walk(tree)
        if isinstance(it, ast.Assign) and ast.unparse(it.targets[0]) == "__all__"
    )
    assert len(names) <= 28
    assert {*names} <= {*dir(art_oat)}
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in dir(art_oat):
        assert getattr(art_oat, name).__doc__ or name.startswith("_"), f"{name} has no docstring"


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("arguments", "is_light"),
    [
        (["-c", "import art_oat"], True),
        (["-c", "from art_oat.cli import app; app(['--help'])"], True),
        (["-c", "from art_oat.cli import app; app(['--version'])"], True),
        (["-c", "import art_oat; art_oat.transfer.adapt, art_oat.OATTrainer"], False),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(arguments, is_light):
    run = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {line.split("|")[2].strip() for line in run.stderr.splitlines() if line.count("|") == 2}
    assert not ({"torch", "art", "numpy"} & imported if is_light else {"torch", "art", "numpy"} - imported)


def test_tests_mirror_the_package():
    # tested with what uses them
    untested = {"__init__", "__main__", "text", "plots", "batches", "records", "protocol", "demo"}
    for path in MODULES:
        mirrored = ROOT / "tests" / path.relative_to(ROOT / "art_oat").with_name(f"test_{path.name}")
        assert path.stem in untested or mirrored.exists(), f"{mirrored} is missing"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"
