import shutil
from dataclasses import replace

import numpy as np
import pytest

from art_oat.evaluation.shards import Shard
from art_oat.experiment.pretrained import WEIGHTS_FOLDER
from art_oat.experiment.run import Run
from art_oat.experiment.security import SecuritySearch
from art_oat.lock import LOCK

SEARCH = SecuritySearch("fmn-2", nb_images=10, check="pgd-1")
NB_SUITES = 2 * 5  # search and check, at each of five lams


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(WEIGHTS_FOLDER / "digits", tmp_path / "run")


@pytest.fixture(scope="module")
def data():
    return Run(WEIGHTS_FOLDER / "digits", print).recipe.dataset()


def search(folder, data, asked=SEARCH):
    """Return the curve, and the first word that is said."""
    lines = []
    curve = asked.of(Run(folder, lines.append), data)
    (line,) = lines
    return curve, line.split()[0]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("nb_done", [2, 7])
def test_a_search_that_was_cut_goes_on_where_it_was_and_one_that_is_done_is_reused(folder, data, monkeypatch, nb_done):
    before, attack, calls = {path.name for path in folder.iterdir()}, Shard.attack, []
    expected, _ = search(shutil.copytree(folder, folder.with_name("uncut")), data)

    def cut(self, *arguments):
        if len(calls) == nb_done:
            raise KeyboardInterrupt
        calls.append(1)
        return attack(self, *arguments)

    monkeypatch.setattr(Shard, "attack", cut)
    with pytest.raises(KeyboardInterrupt):
        search(folder, data)
    monkeypatch.setattr(Shard, "attack", lambda self, *arguments: (calls.append(1), attack(self, *arguments))[1])
    curve, said = search(folder, data)
    assert said == "Going"
    assert len(calls) == NB_SUITES
    again, said = search(folder, data)
    assert said == "Reusing"
    assert len(calls) == NB_SUITES
    for it in (curve, again):
        assert np.array_equal(it.nearest, expected.nearest)
        assert np.array_equal(it.searched, expected.searched)
    assert {path.name for path in folder.iterdir()} - before - {LOCK} == {"security.csv", "security.png"}


@pytest.mark.slow(seconds=1)
def test_another_search_is_made_anew(folder, data):
    alone = replace(SEARCH, check=None, attack="fmn-1")
    assert search(folder, data, alone)[1] == "Looking"
    curve, said = search(folder, data, replace(alone, eps_max=0.1))
    assert said == "Looking"
    assert (curve.eps_max, curve.check_eps) == (0.1, ())
