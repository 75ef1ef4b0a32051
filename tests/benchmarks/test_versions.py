import subprocess

from benchmarks.pages import marked
from benchmarks.tables import DOCS
from benchmarks.versions import _crash, changed, outcome, table

REPORT = """<testsuites><testsuite tests="4" skipped="1">
<testcase classname="tests.a" name="t[1]"><failure/></testcase>
<testcase classname="tests.a" name="t[2]"><error/></testcase>
<testcase classname="tests.a" name="u"/><testcase classname="tests.b" name="v"><skipped/></testcase>
</testsuite></testsuites>"""


def test_pins_are_changed_and_dropped_however_they_are_spelled():
    constraints = "# why\nnumpy==2.4.6\ntorch==2.13.0\ntorchvision==0.28.0\ntyping_extensions==4.16.0\n"
    expected = "# why\nnumpy==2.4.6\ntorch==2.9.1\nTyping-Extensions==4.15.0\n"
    assert changed(constraints, ["torch==2.9.1", "Typing-Extensions==4.15.0"], ["torchvision"]) == expected


def test_an_outcome_counts_every_case_and_names_failing_tests_once():
    assert outcome(REPORT) == {"outcome": "1 passed, 2 failed, 1 skipped", "failures": "tests.a::t"}


def test_the_page_shows_every_version_that_was_tried_and_what_failed():
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert marked("versions", table()) in page


def test_the_test_in_which_the_interpreter_died_is_named():
    trace = 'Fatal Python error\n  File "/a/tests/layers/test_x.py", line 3 in test_it\n  File "b.py", line 1 in f\n'
    died = subprocess.CompletedProcess([], -6, stdout=trace)
    assert _crash(died) == {"outcome": "the interpreter died (-6)", "failures": "tests/layers/test_x.py::test_it"}
