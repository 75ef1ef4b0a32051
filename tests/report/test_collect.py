import base64
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from art_oat import TradeoffCurve
from art_oat.experiment.run import Run
from art_oat.levels import as_floats
from art_oat.report import collect
from art_oat.report.page import html
from tests.report.subjects import MEASUREMENT, RECIPE, silent


def copy(run, tmp_path, *without):
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    for name in without:
        (folder / name).unlink()
    return Run(folder, silent, device_type="cpu")


@pytest.mark.slow(seconds=1)
def test_answers_are_those_of_predict_at_every_stop_of_the_dial(report, data, classifier):
    x = as_floats(data.test.x[list(report.gallery.samples)], (0, 1))
    assert [*report.gallery.labels] == [*data.test.y[list(report.gallery.samples)]]
    assert {(state.lam, state.width) for state in report.gallery.states} == {
        (lam, width) for lam in report.lams for width in RECIPE.widths
    }
    for state in report.gallery.states:
        expected = classifier.predict(x, lam=state.lam, width=state.width).argmax(1)
        assert [answer.label for answer in state.clean] == list(expected)


def test_right_and_wrong_answers_occur(report):
    answers = [
        label == truth
        for state in report.gallery.states
        for (label, _), truth in zip(state.attacked, report.gallery.labels, strict=True)
    ]
    assert set(answers) == {True, False}


def test_the_curve_and_the_stops_of_the_dial_are_those_of_the_run(run, report):
    assert report.curve == TradeoffCurve.from_csv(run.folder / "tradeoff.csv")
    assert set(RECIPE.lambdas) <= set(report.lams)
    assert len(report.lams) > len(RECIPE.lambdas)
    assert list(report.lams) == sorted(report.lams)


def test_accuracies_by_class_make_up_those_of_the_curve(report):
    for point in report.curve.points:
        own = [it for it in report.per_class if (it.lam, it.width) == (point.lam, point.width)]
        assert sum(it.nb_samples for it in own) == MEASUREMENT.nb_robust
        robust = sum(it.robust * it.nb_samples for it in own)
        assert robust / MEASUREMENT.nb_robust == pytest.approx(point.robust)


def test_what_broke_images_and_what_is_left_make_up_all_images(report):
    for point in report.curve.points:
        broken = sum(
            it.counts.get(point.lam, 0) for it in report.breakages if (it.suite, it.width) == ("PGD-2", point.width)
        )
        assert broken + round(point.by_attack["pgd-2"] * point.nb_robust) == point.nb_robust


def test_pictures_are_the_test_images_to_eight_bits(report, data):
    for sample, uri in report.pictures.items():
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        image = as_floats(data.test.x[[sample]], (0, 1))[0, 0]
        np.testing.assert_allclose(picture / 255, image, atol=0.5 / 255 + 1e-6)


def test_a_larger_radius_leaves_no_more_right_and_radius_0_is_the_clean_accuracy(report):
    assert {(line.lam, line.width) for line in report.radii} == {
        (point.lam, point.width) for point in report.curve.points
    }
    for line in report.radii:
        assert list(line.shares) == sorted(line.shares, reverse=True)
        assert line.radii[3] == report.eps


@pytest.mark.slow(seconds=1)
def test_what_a_run_lacks_is_left_out_and_the_page_says_why(run, tmp_path):
    bare = copy(run, tmp_path, "samples.csv", "training.csv", "tradeoff.csv")
    found = collect(bare, nb_images=10)
    assert found.curve is None
    assert (found.per_class, found.breakages, found.training) == ((), (), ())
    page = html(found)
    for why in ("The run was not measured", "There is no samples.csv", "There is no training.csv"):
        assert why in page


@pytest.mark.slow(seconds=1)
def test_no_path_says_whose_home_folder_it_is_and_commands_name_the_run_from_where_it_lies(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = copy(run, tmp_path)
    recipe = RECIPE.changed(pretrained=str(tmp_path / "files" / "weights.pt"))
    own._ledger.keep("recipe", recipe.as_values())
    page = html(collect(Run(own.folder, silent, device_type="cpu"), nb_images=10))
    assert str(tmp_path) not in page
    assert "~/files/weights.pt" in page
    assert "art-oat report copy" in page


def test_where_pgd_knows_no_ball_no_image_is_attacked(run, tmp_path):
    other = copy(run, tmp_path)
    replace(TradeoffCurve.from_csv(run.folder / "tradeoff.csv"), norm="L1").to_csv(other.folder / "tradeoff.csv")
    found = collect(other)
    assert (found.gallery, found.radii) == (None, ())
    assert "PGD, knows no L1 ball" in html(found)


def test_a_damaged_file_is_refused_by_name(run, tmp_path):
    damaged = copy(run, tmp_path)
    (damaged.folder / "samples.csv").write_text("lam,sample\n0,one\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"samples\.csv must say what broke which image"):
        collect(damaged, nb_images=10)


@pytest.mark.slow(seconds=1)
def test_nothing_in_the_folder_is_changed(run, tmp_path):
    own = copy(run, tmp_path)
    before = {path: path.read_bytes() for path in own.folder.iterdir()}
    collect(own, nb_images=10)
    assert {path: path.read_bytes() for path in own.folder.iterdir()} == before
