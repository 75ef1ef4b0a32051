import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

import art_oat.report.page
from art_oat.evaluation.style import CLEAN, ROBUST
from art_oat.report.page import html, values, write_page
from tests.contrast import LINE, TEXT, contrast

EVIL = "</script><script>alert('x')</script><img src=https://evil.example/x>&\""


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input", "line", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_parses_and_asks_for_nothing_outside_itself(report):
    page = Page(html(report))
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert all(
            attributes[name].startswith("data:image/png;base64,") for name in ("src", "href") if name in attributes
        )
    assert not re.search(r"https?://|url\(|@import|@font-face", html(report))


def test_names_of_files_are_escaped_wherever_they_stand(report):
    recipe = replace(report.recipe)
    object.__setattr__(recipe, "network", EVIL)
    object.__setattr__(recipe, "data", EVIL)
    missing, versions = {"samples": EVIL}, {EVIL: EVIL}
    names = {"name": EVIL, "commands": (EVIL,), "classes": (EVIL,) * 10, "versions": versions, "missing": missing}
    evil, usual = (Page(html(it)) for it in (replace(report, recipe=recipe, **names), report))
    for tag in ("script", "img"):
        counts = [[name for name, _ in page.elements].count(tag) for page in (evil, usual)]
        assert counts[0] == counts[1] > 0
    assert not any("evil.example" in it.get("src", "") for _, it in evil.elements)
    assert EVIL in evil.text


def test_the_script_finds_every_answer_by_width_and_stop(report):
    found = json.loads(json.dumps(values(report)))
    assert set(found["states"]) == {"0.5", "1"}
    for state in report.gallery.states:
        name = "1" if state.width == 1 else "0.5"
        own = found["states"][name][found["lams"].index(state.lam)]
        assert own["attacked"] == [list(answer) for answer in state.attacked]
        assert own["images"] == list(state.images)


@pytest.mark.parametrize("without", ["gallery", "curve"])
def test_a_page_without_a_part_is_whole(report, tmp_path, without):
    bare = replace(report, **{without: None}, missing={"gallery": "No attack.", "tradeoff": "Not measured."})
    write_page(bare, tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).open == []


def test_a_recipe_is_shown_as_people_write_it(report):
    text = " ".join(Page(html(report)).text.split())
    assert "lambdas 0, 0.5, 1" in text or "lambdas0, 0.5, 1" in text
    assert "small-8 on digits, Linf eps 0.15" in text


STYLES = Path(art_oat.report.page.__file__).with_name("page.css").read_text()
ROOTS = [dict(re.findall(r"--(\w+): (#\w+);", root)) for root in re.findall(r":root \{([^}]*)\}", STYLES)]
GROUNDS = [(colors, colors[ground]) for colors in ROOTS for ground in ("ground", "raised")]
KINDS = ("clean", "attacked", *(f"s{number}" for number in range(7)))


@pytest.mark.parametrize(("colors", "ground"), GROUNDS)
def test_on_light_and_dark_ground_and_on_paper_lines_and_texts_stand_out(colors, ground):
    mixes = {int(it) for it in re.findall(r"color-mix\(in srgb, var\(--ink\) (\d+)%, var\(--text\)\)", STYLES)}
    assert mixes
    for kind in KINDS:
        assert contrast(colors[kind], ground) >= LINE, kind
        line, text = np.array([to_rgb(colors[it]) for it in (kind, "text")])
        assert all(contrast(share / 100 * line + (1 - share / 100) * text, ground) >= TEXT for share in mixes), kind
    assert all(contrast(colors[it], ground) >= TEXT for it in ("text", "faint", "right", "wrong"))


def test_the_page_has_the_colors_of_the_pictures():
    assert (ROOTS[0]["clean"].upper(), ROOTS[0]["attacked"].upper()) == (CLEAN, ROBUST)
