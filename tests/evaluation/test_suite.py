import re

import pytest
import torch
from art.attacks.evasion import FastGradientMethod

from art_oat import PGD, AutoAttack
from art_oat.evaluation.suite import Engine, display_name, engines, name_faults
from tests.evaluation.subjects import plain_classifier


def named(judges, classifier, eps=0.1, norm="Linf") -> list[Engine]:
    found, faults = engines(judges, classifier, eps=eps, norm=norm)
    assert faults == []
    return found


def faults_of(judges, classifier, eps=0.1, norm="Linf") -> str:
    return " ".join(engines(judges, classifier, eps=eps, norm=norm)[1])


STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("autoattack", STANDARD),
        ("autoattack-plus", ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]),
        ("screen", ["apgd-ce", "apgd-t"]),
        ("pgd-20", ["pgd-20"]),
        ("pgd-5x3", ["pgd-5 #1", "pgd-5 #2", "pgd-5 #3"]),
        ("art:FastGradientMethod", ["art:FastGradientMethod"]),
    ],
)
def test_a_name_means_its_stages_in_order(classifier, name, stages):
    (engine,) = named(name, classifier)
    assert (engine.name, [*engine.stages]) == (name, stages)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("name", ["autoattack", "autoattack-plus", "screen"])
def test_autoattack_and_its_screen_know_every_norm(classifier, name, norm):
    (engine,) = named(name, classifier, norm=norm)
    assert {(stage.eps, stage.norm) for stage in engine.stages.values()} == {(0.1, norm)}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_of_k_steps_covers_two_and_a_half_radii(classifier, norm):
    (engine,) = named("pgd-20x2", classifier, norm=norm)
    (attack,) = set(engine.stages.values())
    assert attack == PGD(0.1, 2.5 * 0.1 / 20, 20, norm)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("autoattack", "AutoAttack"),
        ("autoattack-plus", "AutoAttack (plus)"),
        ("pgd-20", "PGD-20"),
        ("pgd-50x5", "PGD-50 (5 restarts)"),
        ("art:FastGradientMethod", "art:FastGradientMethod"),
    ],
)
def test_names_are_written_for_people(name, shown):
    assert display_name(name) == shown


def test_what_is_not_all_of_autoattack_is_not_called_so(classifier):
    parts = AutoAttack(0.1, parts=("apgd-ce", "apgd-t"))
    for judge in ("screen", parts, AutoAttack(0.1, version="plus", parts=("square",))):
        (engine,) = named(judge, classifier)
        assert "autoattack" not in (engine.name + display_name(engine.name)).lower()


def test_an_attack_that_is_autoattack_is_called_so(classifier):
    for judge in (AutoAttack(0.1), AutoAttack(0.1, parts=tuple(STANDARD))):
        (engine,) = named(judge, classifier)
        assert (display_name(engine.name), [*engine.stages]) == ("AutoAttack", STANDARD)
    (plus,) = named(AutoAttack(0.1, version="plus"), classifier)
    assert display_name(plus.name) == "AutoAttack (plus)"


@pytest.mark.parametrize("judges", [{"autoattack": "screen"}, {"pgd-20": "pgd-5"}, {"autoattack": PGD(0.1)}])
def test_no_engine_goes_by_the_name_of_another(classifier, judges):
    (name,) = judges
    assert f"must not be named as others are, got '{name}'" in faults_of(judges, classifier)
    assert [engine.name for engine in named({name: name, "mine": "pgd-5"}, classifier)] == [name, "mine"]


@pytest.mark.parametrize("attack", [AutoAttack(0.05), AutoAttack(0.1, "L2")])
def test_autoattack_in_another_ball_is_no_figure_for_this_one(classifier, attack):
    message = f"must have the eps and norm of the evaluation, 0.1 (Linf), got {attack.eps} ({attack.norm})"
    assert message in faults_of(attack, classifier)


@pytest.mark.parametrize("name", ["pgd-20", "pgd-5x3", "art:ProjectedGradientDescent", "torchattacks:PGD"])
def test_in_the_l1_norm_pgd_is_refused_with_advice(classifier, name):
    assert faults_of(name, classifier, norm="L1") == (
        f"norm must be 'Linf' or 'L2' for {name}, got 'L1'. For that, use 'autoattack' or 'screen'."
    )


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd-0", "pgd-5x0", "PGD-20", "pgd-20 ", "autoattack-rand"])
@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_an_unknown_name_is_refused_with_the_known_ones(classifier, name, norm):
    expected = rf"attack must be 'autoattack', .*'pgd-KxR'.* or an attack, got {re.escape(repr(name))}"
    assert re.match(expected, faults_of(name, classifier, norm=norm))
    assert re.match(expected, " ".join(name_faults(name, eps=0.1, norm=norm)))


def test_with_three_classes_autoattack_is_refused_with_advice_and_pgd_is_not():
    for name in ("autoattack", "autoattack-plus", "screen", AutoAttack(0.1)):
        assert "at least 4 classes, got 3. Use PGD instead" in faults_of(name, plain_classifier(nb_classes=3))
    named("pgd-5", plain_classifier(nb_classes=3))


def test_a_plain_classifier_is_not_aimed_at(classifier):
    for judge in ("art:FastGradientMethod", FastGradientMethod(classifier), lambda network, x, y: x):
        assert "needs an OATClassifier to bind to, got a PyTorchClassifier" in faults_of(judge, plain_classifier())


def test_a_name_given_twice_is_one_engine_and_two_attacks_need_two_names(classifier):
    assert [engine.name for engine in named(["pgd-5", "screen", "pgd-5"], classifier)] == ["pgd-5", "screen"]
    assert "must have different names, got ['PGD', 'PGD']" in faults_of([PGD(0.1), PGD(0.05)], classifier)
    assert len(named({"a": PGD(0.1), "b": PGD(0.05)}, classifier)) == 2


def test_all_that_is_wrong_with_several_is_said(classifier):
    said = faults_of(["fgsm", "pgd-5", "art:Nothing", {}], classifier)
    assert "got 'fgsm'" in said
    assert "got 'art:Nothing'" in said
    assert "got dict" in said


def test_descriptions_tell_settings_apart_and_are_the_same_for_the_same(classifier):
    def attack(network, x, y, *, clip_values=None, generator=None):
        return x

    judges = {
        "a": PGD(0.1),
        "b": PGD(0.1, nb_steps=8),
        "c": AutoAttack(0.1, parts=("square",)),
        "d": FastGradientMethod(classifier, eps=0.1),
        "e": FastGradientMethod(classifier, eps=0.2),
        "f": attack,
    }
    first, second = ([str(engine.description) for engine in named(dict(judges), classifier)] for _ in "12")
    assert first == second
    assert len(set(first)) == len(judges)
    assert not any(" at 0x" in description for description in first)


def test_torchattacks_counts_in_images_between_0_and_1(classifier):
    pytest.importorskip("torchattacks")
    assert classifier.clip_values is not None
    x, y = torch.full((2, 1, 6, 6), 0.5), torch.tensor([0, 1])
    for eps in (0.1, 0.01):
        (engine,) = named("torchattacks:FGSM", classifier, eps=eps)
        (attack,) = engine.at(classifier.at(1.0).point).values()
        x_adv = attack(classifier.at(1.0).as_module(), x, y, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close((x_adv - x).abs().amax(), torch.tensor(eps))
