"""The page as a browser runs it: what is clicked and turned does what the network says."""

from dataclasses import replace

import pytest

from art_oat.levels import as_floats
from art_oat.report import write_page
from tests.report.browser import Browser, needs_chromium

pytestmark = [needs_chromium, pytest.mark.slow]
ARROW_RIGHT = ("ArrowRight", 39)


@pytest.fixture
def tab(report, tmp_path):
    write_page(report, tmp_path / "report.html")
    browser = Browser(tmp_path / "profile")
    browser.open(tmp_path / "report.html")
    yield browser
    browser.close()


def answers(tab, side):
    return tab.value(f"all('.card .{side} .answer').map((it) => it.textContent)")


def expected(report, data, classifier, index, width):
    """What predict says, as the page writes it."""
    lam = report.lams[index]
    scores = classifier.predict(as_floats(data.test.x[list(report.gallery.samples)], (0, 1)), lam=lam, width=width)
    return [
        f"{'✓' if label == truth else '✗'} {label}"
        for label, truth in zip(scores.argmax(1), report.gallery.labels, strict=True)
    ]


def assert_answers(tab, report, data, classifier, index, width):
    shown = [text.rpartition(" ")[0] for text in answers(tab, "clean")]
    assert shown == expected(report, data, classifier, index, width)
    state = next(it for it in report.gallery.states if (it.lam, it.width) == (report.lams[index], width))
    assert [text.split()[1] for text in answers(tab, "attacked")] == [str(it.label) for it in state.attacked]
    assert tab.value("all('.card .attacked img').map((it) => it.src)") == list(state.images)


def test_the_slider_turned_by_keys_shows_what_predict_says_at_that_lam(tab, report, data, classifier):
    assert_answers(tab, report, data, classifier, 0, 1.0)
    tab.value("slider.focus()")
    for index in range(1, len(report.lams)):
        tab.press(*ARROW_RIGHT)
        assert_answers(tab, report, data, classifier, index, 1.0)
    assert tab.value("slider.getAttribute('aria-valuetext')") == "lam 1, trained"
    assert tab.complaints() == []


def test_a_width_is_chosen_by_a_click_and_a_mark_turns_both_dials(tab, report, data, classifier):
    tab.click("input[name=width][value='0.5']")
    assert_answers(tab, report, data, classifier, 0, 0.5)
    assert tab.value("all('.by-width').filter((it) => it.offsetParent).map((it) => it.dataset.ofWidth)") == ["0.5"] * 2
    tab.click(".mark[data-lam='1.0'][data-width='1.0']")
    assert_answers(tab, report, data, classifier, len(report.lams) - 1, 1.0)
    assert tab.complaints() == []


def test_a_mark_says_its_numbers_under_the_pointer_and_under_the_focus(tab, report):
    assert tab.value("tip.hidden")
    tab.click(".mark[data-lam='0.5'][data-width='1.0']")
    point = next(it for it in report.curve.points if (it.lam, it.width) == (0.5, 1.0))
    assert f"clean {100 * point.clean:.1f}% ± {100 * point.clean_error:.1f}" in tab.value("tip.textContent")
    assert not tab.value("tip.hidden")
    tab.value("document.activeElement.blur(); one('.mark[data-lam=\"0.0\"]').focus()")
    assert tab.value("tip.textContent").startswith("lam 0,")
    assert tab.complaints() == []


@pytest.mark.parametrize("width", [320, 800, 1600])
@pytest.mark.parametrize("media", ["screen", "print"])
def test_nothing_sticks_out_of_a_window_whatever_its_width(tab, width, media):
    tab("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    tab("Emulation.setEmulatedMedia", media=media)
    if (width, media) != (320, "print"):  # no paper is that narrow
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_a_long_name_changes_no_height_and_covers_nothing_as_the_slider_turns(report, tmp_path):
    names = ("of", "a", "class", "that", "has", "one", "name", "of many", "words", "long" * 8)
    write_page(replace(report, classes=names), tmp_path / "report.html")
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(tmp_path / "report.html")
        heights = set()
        for index in range(len(report.lams)):
            browser.value(f"slider.value = {index}; show()")
            heights.add(browser.value("document.documentElement.scrollHeight"))
            assert browser.value("all('.pair > div').every((it) => it.scrollWidth <= it.clientWidth)")
        assert len(heights) == 1
    finally:
        browser.close()


def test_on_paper_the_trained_lams_stand_below_each_other(tab, report):
    tab("Emulation.setEmulatedMedia", media="print")
    nb_rows = 1 + len(report.trained) * len(report.widths)
    assert tab.value("all('#states .state').filter((it) => it.offsetParent).length") == nb_rows
    assert tab.value("all('#dials, .cards').filter((it) => it.offsetParent).length") == 0
    assert len(tab("Page.printToPDF", printBackground=True)["data"]) > 10_000
    assert tab.complaints() == []
