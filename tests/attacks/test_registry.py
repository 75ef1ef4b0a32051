import sys

import numpy as np
import pytest
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent

from art_oat import NFGSM, PGD
from art_oat.attacks.registry import attack_named, name_faults
from tests.conftest import make_classifier


def test_pgd_has_as_many_steps_as_its_name_says():
    assert attack_named("pgd-3", make_classifier(), eps=0.2, norm="L2") == PGD(0.2, nb_steps=3, norm="L2")


def test_pgd_maximizes_what_is_asked_for():
    assert attack_named("pgd-7", make_classifier(), eps=0.2, objective="kl") == PGD(0.2, objective="kl")


def test_one_step_goes_eps_far_from_as_much_noise_as_its_name_says():
    assert attack_named("n-fgsm", make_classifier(), eps=0.2) == NFGSM(0.2)
    assert attack_named("n-fgsm-0.5", make_classifier(), eps=0.2) == NFGSM(0.2, noise=0.5)


@pytest.mark.parametrize(("norm", "expected"), [("Linf", np.inf), ("L2", 2)])
def test_an_attack_of_art_gets_the_radius_the_norm_and_the_step(norm, expected):
    attack = attack_named("art:ProjectedGradientDescent", make_classifier(), eps=0.2, eps_step=0.1, norm=norm)
    assert isinstance(attack, ProjectedGradientDescent)
    assert (attack.eps, attack.eps_step, attack.norm, attack.verbose) == (0.2, 0.1, expected, False)


def test_an_attack_of_art_keeps_its_own_defaults():
    classifier = make_classifier()
    attack = attack_named("art:AutoProjectedGradientDescent", classifier, eps=0.2)
    assert attack.max_iter == AutoProjectedGradientDescent(classifier, verbose=False).max_iter


def test_an_attack_of_torchattacks_gets_the_radius_and_the_step():
    attack = attack_named("torchattacks:MIFGSM", make_classifier(), eps=0.2, eps_step=0.1)
    assert isinstance(attack, torchattacks.MIFGSM)
    assert (attack.eps, attack.alpha) == (0.2, 0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fgsm", {}, "attack must be a name such as pgd-7"),
        ("pgd-0", {}, "attack must be a name such as pgd-7"),
        ("art:NoAttack", {}, "attack must be a name such as pgd-7"),
        ("torchattacks:attack", {}, "attack must be a name such as pgd-7"),
        ("torchattacks:CW", {}, "attack must take eps, which torchattacks:CW does not"),
        ("torchattacks:FGSM", {"eps_step": 0.1}, "eps_step must be None for torchattacks:FGSM"),
        ("torchattacks:PGD", {"norm": "L2"}, "norm must be Linf for torchattacks:PGD, got L2"),
        ("torchattacks:PGDL2", {}, "norm must be L2 for torchattacks:PGDL2, got Linf"),
        ("pgd-7", {"eps": -1}, "eps must be a number above 0"),
        ("n-fgsm", {"norm": "L2"}, "norm must be Linf for n-fgsm, got L2"),
        ("n-fgsm-0", {}, "noise must be above 0"),
        ("n-fgsm-", {}, "attack must be a name such as pgd-7"),
        ("n-fgsm", {"eps_step": 0.1}, "eps_step must be None for n-fgsm, which goes eps far at once"),
    ],
)
def test_a_name_that_means_no_such_attack_is_refused(name, options, message):
    assert message in name_faults(name, **{"eps": 0.2, **options})[0]


def test_without_torchattacks_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match=r"pip install art-oat\[torchattacks\]"):
        name_faults("torchattacks:PGD", eps=0.2)


def test_an_attack_that_knows_a_number_of_classes_gets_the_classifiers():
    assert attack_named("torchattacks:APGDT", make_classifier(), eps=0.2).n_target_classes == 4


def test_a_default_step_that_leaps_over_the_ball_is_refused():
    with pytest.raises(ValueError, match=r"eps_step must be given for art:ProjectedGradientDescent at eps 0.03"):
        attack_named("art:ProjectedGradientDescent", make_classifier(), eps=0.03)


def test_an_attack_of_one_step_may_step_beyond_the_ball():
    assert attack_named("torchattacks:FFGSM", make_classifier(), eps=8 / 255).alpha == 10 / 255


def test_a_radius_in_another_unit_is_refused_unless_it_is_meant():
    classifier = make_classifier(clip_values=(0, 255))
    with pytest.raises(ValueError, match=r"clip_values are \[0, 255\]"):
        attack_named("pgd-7", classifier, eps=200)
    with pytest.raises(ValueError, match=r"clip_values are \[0, 1\]"):
        attack_named("torchattacks:FGSM", classifier, eps=8)
    assert attack_named("pgd-7", classifier, eps=8) == PGD(8)
    assert attack_named("torchattacks:FGSM", classifier, eps=8, allow_large_eps=True).eps == 8
