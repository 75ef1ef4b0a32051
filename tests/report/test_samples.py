from pathlib import Path

import numpy as np
import pytest

from art_oat.report.samples import breakages, by_class, read_samples

TEXT = """lam,width,attack,sample,is_clean,is_robust,broken_by
0.0,1.0,pgd-20,4,1,1,
0.0,1.0,pgd-20,7,1,0,carried
0.0,1.0,autoattack,4,1,0,apgd-ce
0.0,1.0,autoattack,7,1,0,apgd-ce
1.0,1.0,pgd-20,4,1,1,
1.0,1.0,pgd-20,7,0,0,no attack
1.0,1.0,autoattack,4,1,1,
1.0,1.0,autoattack,7,0,0,no attack
"""


@pytest.fixture
def rows(tmp_path):
    path: Path = tmp_path / "samples.csv"
    path.write_text(TEXT, encoding="utf-8")
    return read_samples(path)


def test_robust_is_what_no_suite_broke(rows):
    y = np.zeros(8, int)
    y[7] = 3
    found = {(it.lam, it.label): (it.clean, it.robust, it.nb_samples) for it in by_class(rows, y)}
    assert found == {(0.0, 0): (1, 0, 1), (0.0, 3): (1, 0, 1), (1.0, 0): (1, 1, 1), (1.0, 3): (0, 0, 1)}


def test_what_broke_images_is_counted_by_suite_attack_and_lam_in_the_order_of_the_suites(rows):
    found = [(it.suite, it.attack, dict(it.counts), it.examples) for it in breakages(rows)]
    assert found == [
        ("PGD-20", "an example found at another point", {0.0: 1}, (7,)),
        ("PGD-20", "wrong without an attack", {1.0: 1}, (7,)),
        ("AutoAttack", "apgd-ce", {0.0: 2}, (4, 7)),
        ("AutoAttack", "wrong without an attack", {1.0: 1}, (7,)),
    ]
