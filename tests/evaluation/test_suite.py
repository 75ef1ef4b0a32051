import pytest
from art.attacks.evasion import FastGradientMethod

from art_oat import PGD, AutoAttack
from art_oat.attacks import ByLam, display_name
from art_oat.evaluation.suite import AttackSuite, suites_of
from art_oat.fingerprint import unsaid
from tests.evaluation.subjects import plain_classifier

STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]


def suites(attack, classifier, eps=0.1, norm="Linf") -> list[AttackSuite]:
    found, faults = suites_of(attack, classifier, eps=eps, norm=norm)
    assert faults == []
    return found


def faults_of(attack, classifier, eps=0.1, norm="Linf") -> str:
    return " ".join(suites_of(attack, classifier, eps=eps, norm=norm)[1])


@pytest.mark.parametrize(
    ("name", "attacks"),
    [
        ("autoattack", STANDARD),
        ("pgd-5x2", ["pgd-5 #1", "pgd-5 #2"]),
        ("art:FastGradientMethod", ["art:FastGradientMethod"]),
    ],
)
def test_a_name_means_its_attacks_in_order(classifier, name, attacks):
    (suite,) = suites(name, classifier)
    assert (suite.name, [*suite.attacks]) == (name, attacks)


def test_what_is_not_all_of_autoattack_is_not_called_so(classifier):
    parts = AutoAttack(0.1, parts=("apgd-ce", "apgd-t"))
    for attack in ("screen", parts, AutoAttack(0.1, version="plus", parts=("square",))):
        (suite,) = suites(attack, classifier)
        assert "autoattack" not in (suite.name + display_name(suite.name)).lower()


def test_an_attack_that_is_autoattack_is_called_so(classifier):
    for attack in (AutoAttack(0.1), AutoAttack(0.1, parts=tuple(STANDARD))):
        (suite,) = suites(attack, classifier)
        assert (display_name(suite.name), [*suite.attacks]) == ("AutoAttack", STANDARD)
    (plus,) = suites(AutoAttack(0.1, version="plus"), classifier)
    assert display_name(plus.name) == "AutoAttack (plus)"


@pytest.mark.parametrize("attack", [{"autoattack": "screen"}, {"pgd-20": "pgd-5"}, {"autoattack": PGD(0.1)}])
def test_no_suite_goes_by_the_name_of_another(classifier, attack):
    (name,) = attack
    assert f"must not be named as others are, got '{name}'" in faults_of(attack, classifier)
    assert [suite.name for suite in suites({name: name, "mine": "pgd-5"}, classifier)] == [name, "mine"]


@pytest.mark.parametrize("attack", [AutoAttack(0.05), AutoAttack(0.1, "L2")])
def test_autoattack_in_another_ball_is_no_figure_for_this_one(classifier, attack):
    message = f"must have the eps and norm of the evaluation, 0.1 (Linf), got {attack.eps} ({attack.norm})"
    assert message in faults_of(attack, classifier)


def test_with_three_classes_autoattack_is_refused_with_advice_and_pgd_is_not():
    for attack in ("autoattack", "autoattack-plus", "screen", AutoAttack(0.1)):
        assert "at least 4 classes, got 3. Use PGD instead" in faults_of(attack, plain_classifier(nb_classes=3))
    suites("pgd-5", plain_classifier(nb_classes=3))


def test_an_attack_from_outside_is_not_bound_to_a_plain_classifier(classifier):
    for attack in ("art:FastGradientMethod", FastGradientMethod(classifier), lambda network, x, y: x):
        assert "needs an OATClassifier to bind to, got a PyTorchClassifier" in faults_of(attack, plain_classifier())


def test_attacks_by_lam_are_for_training_and_judge_nothing(classifier):
    assert "must be one attack for every lam, got a ByLam" in faults_of(ByLam({1.0: PGD(0.1)}), classifier)


def test_a_name_given_twice_is_one_suite_and_two_attacks_need_two_names(classifier):
    assert [suite.name for suite in suites(["pgd-5", "screen", "pgd-5"], classifier)] == ["pgd-5", "screen"]
    assert "must have different names, got ['PGD', 'PGD']" in faults_of([PGD(0.1), PGD(0.05)], classifier)
    assert len(suites({"a": PGD(0.1), "b": PGD(0.05)}, classifier)) == 2


def test_all_that_is_wrong_with_several_is_said(classifier):
    said = faults_of(["fgsm", "pgd-5", "art:Nothing", {}], classifier)
    for part in ("got 'fgsm'", "got 'art:Nothing'", "got dict"):
        assert part in said


def test_descriptions_tell_settings_apart_and_are_the_same_for_the_same(classifier):
    def attack(network, x, y, *, clip_values=None, generator=None):
        return x

    given = {
        "a": PGD(0.1),
        "b": PGD(0.1, nb_steps=8),
        "c": AutoAttack(0.1, parts=("square",)),
        "d": FastGradientMethod(classifier, eps=0.1),
        "e": FastGradientMethod(classifier, eps=0.2),
        "f": attack,
    }
    first, second = ([suite.description for suite in suites(dict(given), classifier)] for _ in "12")
    assert first == second
    assert len({str(description) for description in first}) == len(given)
    assert not any(unsaid(description) for description in first)
