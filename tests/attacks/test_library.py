import sys

import numpy as np
import pytest
import torchattacks
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
    UniversalPerturbation,
    VirtualAdversarialMethod,
    Wasserstein,
)

from art_oat import NFGSM, PGD
from art_oat.attacks import attack_named, radii_of
from art_oat.attacks.registry import attacks_named, name_faults
from tests.conftest import make_classifier
from tests.evaluation.subjects import plain_classifier


@pytest.mark.parametrize(("norm", "expected"), [("Linf", np.inf), ("L2", 2)])
def test_an_attack_of_art_gets_the_radius_the_norm_and_the_step(norm, expected):
    attack = attack_named("art:ProjectedGradientDescent", make_classifier(), eps=0.2, eps_step=0.1, norm=norm)
    assert isinstance(attack, ProjectedGradientDescent)
    assert (attack.eps, attack.eps_step, attack.norm, attack.verbose) == (0.2, 0.1, expected, False)


def test_an_attack_keeps_its_own_defaults_and_gets_the_number_of_classes():
    classifier = make_classifier()
    attack = attack_named("art:AutoProjectedGradientDescent", classifier, eps=0.2)
    assert attack.max_iter == AutoProjectedGradientDescent(classifier, verbose=False).max_iter
    assert attack_named("torchattacks:APGDT", classifier, eps=0.2).n_target_classes == 4


def test_an_attack_of_torchattacks_gets_the_radius_and_the_step():
    attack = attack_named("torchattacks:MIFGSM", make_classifier(), eps=0.2, eps_step=0.1)
    assert isinstance(attack, torchattacks.MIFGSM)
    assert (attack.eps, attack.alpha) == (0.2, 0.1)


@pytest.mark.parametrize("span", [1, 255])
def test_an_attack_that_evaluates_steps_a_quarter_of_the_radius_in_its_own_units(span):
    classifier = make_classifier(clip_values=(0, span))
    (of_art,) = attacks_named("art:ProjectedGradientDescent", classifier, eps=0.1 * span, norm="L2").values()
    (of_torch,) = attacks_named("torchattacks:PGD", classifier, eps=0.1 * span, norm="Linf").values()
    assert (of_art.eps, of_art.eps_step, of_art.norm) == (0.1 * span, 0.1 * span / 4, 2)
    assert (of_torch.eps, of_torch.alpha) == pytest.approx((0.1, 0.025))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("art:NoAttack", {}, "attack must be a class of art.attacks.evasion, got 'art:NoAttack'"),
        ("torchattacks:attack", {}, "attack must be a class of torchattacks, got 'torchattacks:attack'"),
        ("torchattacks:CW", {}, "attack must take eps, which torchattacks:CW does not"),
        ("torchattacks:FGSM", {"eps_step": 0.1}, "eps_step must be None for torchattacks:FGSM"),
        ("torchattacks:PGD", {"norm": "L2"}, "norm must be Linf for torchattacks:PGD, got L2"),
        ("torchattacks:PGDL2", {}, "norm must be L2 for torchattacks:PGDL2, got Linf"),
        ("art:ProjectedGradientDescent", {"eps": 0.03}, "eps_step must be given for art:ProjectedGradientDescent"),
    ],
)
def test_what_an_attack_does_not_take_is_refused(name, options, message):
    assert message in name_faults(name, **{"eps": 0.2, **options})[0]


def test_a_default_step_may_be_long_where_it_is_the_only_one_or_is_not_taken():
    assert attack_named("torchattacks:FFGSM", make_classifier(), eps=8 / 255).alpha == 10 / 255
    assert name_faults("art:ProjectedGradientDescent", eps=0.03, use="evaluation") == []


def test_without_torchattacks_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match=r"pip install art-oat\[torchattacks\]"):
        name_faults("torchattacks:PGD", eps=0.2)


@pytest.mark.parametrize("name", ["art:FastGradientMethod", "torchattacks:PGD"])
def test_a_plain_classifier_cannot_be_bound_to(name):
    with pytest.raises(TypeError, match=f"attack {name} needs an OATClassifier to bind to, got a PyTorchClassifier"):
        attacks_named(name, plain_classifier(), eps=0.1, norm="Linf")


def radii(attack, classifier):
    return [(it.eps, it.norm, float(it.clip_values[1])) for it in radii_of(attack, classifier)]


def test_attacks_say_their_radius_in_the_units_that_they_count_in():
    classifier = make_classifier(clip_values=(0, 255))
    module = classifier.at(1.0).as_module()
    full = np.full((1, 6, 6), 8.0)
    for attack, *expected in [
        (PGD(8, norm="L2"), 8, "L2", 255),
        (NFGSM(8), 8, "Linf", 255),
        (ProjectedGradientDescent(classifier, norm=np.inf, eps=8), 8, "Linf", 255),
        (ProjectedGradientDescent(classifier, norm=2, eps=8), 8, "L2", 255),
        (FastGradientMethod(classifier, norm="inf", eps=full, eps_step=full), 8, "Linf", 255),
        (UniversalPerturbation(classifier), 10, "Linf", 255),
        (VirtualAdversarialMethod(classifier), 0.1, "L2", 255),
        (torchattacks.FGSM(module, eps=0.1), 0.1, "Linf", 1),
        (torchattacks.PGDL2(module, eps=0.1), 0.1, "L2", 1),
        (torchattacks.APGD(module, norm="L2", eps=0.1), 0.1, "L2", 1),
    ]:
        assert radii(attack, classifier) == [tuple(expected)]
    for attack in (None, torchattacks.CW(module), lambda network, x, y: x, Wasserstein(classifier)):
        assert radii_of(attack, classifier) == []


def test_every_attack_of_several_says_its_radius():
    classifier = make_classifier()
    module = classifier.at(1.0).as_module()
    several = torchattacks.MultiAttack([torchattacks.FGSM(module, eps=0.1), torchattacks.PGD(module, eps=8)])
    assert [eps for eps, *_ in radii(several, classifier)] == [0.1, 8]
