"""What the README shows must work as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.subjects import call

README = Path(__file__).parents[1] / "README.md"


GUIDE = README.parent / "docs" / "guide.md"
SHIPPING = README.parent / "docs" / "ship.md"
SCALE = README.parent / "docs" / "scale.md"
FIRST = README.parent / "docs" / "first_ten_minutes.md"


def python_blocks(page: Path = README) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_python(page: Path) -> dict[str, object]:
    """Run all Python of a page in one session, and give its names."""
    names: dict[str, object] = {}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)
    assert (tmp_path / "tradeoff.png").exists()


def test_the_python_of_the_page_on_many_machines_runs():
    assert run_python(SCALE)["group"].is_first


@pytest.mark.slow
def test_what_a_stranger_types_first_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, use = python_blocks(FIRST)
    (tmp_path / "my_cnn.py").write_text(network, encoding="utf-8")
    commands = re.findall(r"^art-oat .*runs/mine.*$", FIRST.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["train", "evaluate", "report", "export"]
    for command in commands:
        result = call(*shlex.split(command.replace("--nb-epochs 20", "--nb-epochs 2"))[1:])
        assert result.exit_code == 0, result.output
    names: dict[str, object] = {}
    exec(compile(use, str(FIRST), "exec"), names)
    assert names["logits"].shape == (3, 10)


def test_every_page_with_python_is_run():
    pages = {page for page in (README, *GUIDE.parent.rglob("*.md")) if python_blocks(page)}
    assert pages == {README, GUIDE, SHIPPING, SCALE, FIRST}


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.slow(seconds=1)
def test_the_python_of_the_page_on_shipping_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_python(SHIPPING)
    files = {"robust.onnx", "accurate.pt2", "weights.safetensors", "dial.onnx", "half.onnx", "int8.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert names["logits"].shape == (5, 10)


@pytest.mark.slow
def test_the_commands_of_the_page_on_shipping_run_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^art-oat .*$", SHIPPING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for command in commands:
        result = call(*shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    assert len(commands) == 6
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"robust.onnx", "robust-int8.onnx", "dial.onnx"}
    assert {path.suffix for path in (tmp_path / "entry").iterdir()} >= {".json", ".pt", ".py", ".safetensors"}
    assert (tmp_path / "runs" / "digits" / "README.md").exists()


def test_the_quick_start_has_about_ten_lines():
    code = [
        line for line in python_blocks()[0].splitlines() if line.strip() and not line.startswith(("from ", "import "))
    ]
    assert len(code) <= 11


def test_every_test_that_a_page_names_is_there():
    pages = "".join(page.read_text(encoding="utf-8") for page in (README.parent / "docs").glob("*.md"))
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", pages)
    texts = {file: (README.parent / file).read_text(encoding="utf-8") for file, _ in named}
    assert named
    assert not [(file, name) for file, name in named if name and f"def {name}(" not in texts[file]]
