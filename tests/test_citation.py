import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_what_is_to_be_cited_is_the_version_that_is_built():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what version 1.2.0 of the format requires
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]


def test_the_newest_notes_are_of_the_version_and_the_day_that_are_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    unreleased, newest, *_ = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert (unreleased, newest) == ("Unreleased", f"{cited['version']} ({cited['date-released']})")


def test_what_the_method_is_cited_by_is_where_the_project_says_that_its_paper_is():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert urls["Paper"] == paper["url"]
    assert paper["url"].endswith(paper["identifiers"][0]["value"].removeprefix("arXiv:"))
