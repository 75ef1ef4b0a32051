import numpy as np
import pytest

from art_oat import PGD
from art_oat.attacks import ByLam, radii_of
from art_oat.attacks.by_lam import parts_of
from tests.conftest import make_classifier

L2, LINF = PGD(1.0, norm="L2"), PGD(0.1)


def test_attacks_are_kept_by_ascending_lam_and_the_last_is_that_of_the_largest():
    attack = ByLam({np.float64(1.0): LINF, 0.5: L2})
    assert list(attack.attacks.items()) == [(0.5, L2), (1.0, LINF)]
    assert attack.last is LINF


def test_scaling_scales_the_attack_of_every_lam():
    assert ByLam({0.5: L2, 1.0: LINF}).scaled(0.5) == ByLam({0.5: L2.scaled(0.5), 1.0: LINF.scaled(0.5)})


def test_every_attack_tells_its_radius_its_norm_and_its_lam():
    radii = radii_of(ByLam({0.5: L2, 1.0: LINF}), make_classifier())
    assert [(it.eps, it.norm, it.name) for it in radii] == [
        (1.0, "L2", "eps at lam 0.5"),
        (0.1, "Linf", "eps at lam 1"),
    ]


def test_the_parts_of_an_attack_that_is_not_by_lam_are_it_alone():
    assert parts_of(LINF) == {"": LINF}


@pytest.mark.parametrize(
    ("attacks", "error", "message"),
    [
        ([LINF], TypeError, "attacks must map lams to attacks, got list"),
        ({}, ValueError, r"attacks must be for lams in \(0, 1\], got none"),
        ({0.0: L2, 0.5: L2, 1.5: LINF}, ValueError, r"got \[0.0, 1.5\]. Lam 0 meets no attack"),
        ({0.5: "pgd-7"}, TypeError, "attacks must hold attacks such as PGD.*, got 'pgd-7' at lam 0.5"),
        ({0.5: ByLam({0.5: L2})}, TypeError, "attacks must hold attacks such as PGD"),
    ],
)
def test_what_is_no_table_of_attacks_is_refused(attacks, error, message):
    with pytest.raises(error, match=message):
        ByLam(attacks)
