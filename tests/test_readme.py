"""What the README shows must work as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in python_blocks():
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "tradeoff.png").exists()


def test_all_python_of_the_readme_can_be_compiled_and_imports_what_there_is():
    for block in python_blocks():
        compile(block, str(README), "exec")
        exec("\n".join(line for line in block.splitlines() if line.startswith(("from ", "import "))), {})


def test_the_quick_start_has_about_ten_lines():
    code = [
        line for line in python_blocks()[0].splitlines() if line.strip() and not line.startswith(("from ", "import "))
    ]
    assert len(code) <= 11


def test_every_link_within_the_project_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (README.parent / target).exists()]
    assert not missing


def test_every_test_that_a_page_names_is_there():
    pages = "".join(page.read_text(encoding="utf-8") for page in (README.parent / "docs").glob("*.md"))
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", pages)
    texts = {file: (README.parent / file).read_text(encoding="utf-8") for file, _ in named}
    assert named
    assert not [(file, name) for file, name in named if name and f"def {name}(" not in texts[file]]
