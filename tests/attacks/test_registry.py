import re

import pytest
import torch

from art_oat import NFGSM, PGD, AutoAttack, evaluate
from art_oat.attacks import AttackKind, attack_named, display_name, register, registry
from art_oat.attacks.registry import attacks_named, is_one_step, is_reserved, kinds, name_faults
from art_oat.evaluation import EvaluationOptions
from tests.conftest import make_classifier
from tests.evaluation.subjects import linear_data, plain_classifier

STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]
PLUS = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("pgd-3", {"norm": "L2"}, PGD(0.2, nb_steps=3, norm="L2")),
        ("pgd-7", {"objective": "kl"}, PGD(0.2, objective="kl")),
        ("pgd-7", {"eps_step": 0.1}, PGD(0.2, 0.1)),
        ("n-fgsm", {}, NFGSM(0.2)),
        ("n-fgsm-0.5", {}, NFGSM(0.2, noise=0.5)),
    ],
)
def test_a_name_means_an_attack_that_trains(name, options, expected):
    assert attack_named(name, make_classifier(), eps=0.2, **options) == expected


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(
    ("name", "parts", "version"),
    [
        ("autoattack", STANDARD, "standard"),
        ("autoattack-plus", PLUS, "plus"),
        ("screen", STANDARD[:2], "standard"),
    ],
)
def test_autoattack_and_its_screen_evaluate_in_every_norm(name, parts, version, norm):
    found = attacks_named(name, plain_classifier(), eps=0.1, norm=norm)
    assert found == {part: AutoAttack(0.1, norm, version, (part,)) for part in parts}
    assert [*found] == parts


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    ("name", "parts"), [("pgd-20", ["pgd-20"]), ("pgd-20x1", ["pgd-20"]), ("pgd-20x3", [f"pgd-20 #{n}" for n in "123"])]
)
def test_pgd_evaluates_by_k_steps_over_two_and_a_half_radii_once_per_restart(name, parts, norm):
    attack = PGD(0.1, 2.5 * 0.1 / 20, 20, norm)
    assert attacks_named(name, plain_classifier(), eps=0.1, norm=norm) == dict.fromkeys(parts, attack)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("autoattack", "AutoAttack"),
        ("autoattack-plus", "AutoAttack (plus)"),
        ("pgd-20", "PGD-20"),
        ("pgd-50x5", "PGD-50 (5 restarts)"),
        ("art:FastGradientMethod", "art:FastGradientMethod"),
        ("mine", "mine"),
    ],
)
def test_names_are_written_for_people(name, shown):
    assert display_name(name) == shown


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd-0", "pgd-5x0", "PGD-20", "pgd-20 ", "autoattack-rand", "n-fgsm-"])
@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_an_unknown_name_is_refused_with_the_known_ones(name, norm):
    (for_training,) = name_faults(name, eps=0.1, norm=norm)
    (for_evaluation,) = name_faults(name, eps=0.1, norm=norm, use="evaluation")
    for fault in (for_training, for_evaluation):
        assert re.fullmatch(rf"attack must be one of .*art:NAME.*pgd-K, .*, got {re.escape(repr(name))}\.", fault)
    assert ("n-fgsm[-NOISE]" in for_training, "autoattack, " in for_training) == (True, False)
    assert ("n-fgsm[-NOISE]" in for_evaluation, "autoattack, " in for_evaluation) == (False, True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("autoattack", {}, "got 'autoattack', which is not for training"),
        ("n-fgsm", {"use": "evaluation"}, "got 'n-fgsm', which is not for evaluation"),
        ("pgd-7x3", {}, "attack must have no restarts in training, got pgd-7x3"),
        ("pgd-7", {"eps": -1}, "eps must be a number above 0"),
        ("pgd-7", {"eps_step": 0}, "eps_step must be a number above 0, or None, got 0"),
        ("pgd-7", {"norm": "L0"}, "norm must be one of ('Linf', 'L2', 'L1'), got 'L0'"),
        ("n-fgsm", {"norm": "L2"}, "norm must be 'Linf' for n-fgsm, got 'L2'"),
        ("n-fgsm-0", {}, "noise must be above 0"),
        ("n-fgsm", {"eps_step": 0.1}, "eps_step must be None for n-fgsm, which goes eps far at once"),
    ],
)
def test_what_an_attack_of_a_name_does_not_take_is_refused(name, options, message):
    assert message in name_faults(name, **{"eps": 0.2, **options})[0]


@pytest.mark.parametrize("name", ["pgd-20", "pgd-5x3", "art:ProjectedGradientDescent", "torchattacks:PGD"])
def test_in_the_l1_norm_pgd_is_refused_with_advice(name):
    assert name_faults(name, eps=0.1, norm="L1", use="evaluation") == [
        f"norm must be 'Linf' or 'L2' for {name}, got 'L1'. For that, use "
        "advlib:NAME[-STEPS], autoattack, autoattack-plus, screen, search:NAME (NAME at 8 radii), "
        "secmltorch:NAME[-STEPS]."
    ]


def test_one_step_is_told_from_many():
    assert [is_one_step(name) for name in ("n-fgsm", "n-fgsm-1", "pgd-1", "fgsm")] == [True, True, False, False]


def test_a_kind_registered_in_one_place_trains_evaluates_and_is_displayed(monkeypatch):
    def jump(network, x, y, *, clip_values=None, generator=None):
        return x + 0.1

    monkeypatch.setattr(registry, "_KINDS", {kind.pattern: kind for kind in kinds()})
    register(
        AttackKind(
            pattern=r"jump-\d+",
            spelled="jump-N",
            train=lambda spec, classifier, objective: (jump, spec.eps),
            evaluate=lambda spec, classifier: {spec.name: jump},
            display=str.title,
            reserved=r"jump-\d+",
        )
    )
    assert attack_named("jump-3", make_classifier(), eps=0.2) == (jump, 0.2)
    x, y = linear_data()
    classifier = plain_classifier()
    report = evaluate(
        classifier, x.numpy(), y.numpy(), eps=0.1, attack="jump-3", options=EvaluationOptions(verbose=False)
    )
    stands = torch.as_tensor(classifier.predict((x + 0.1).numpy())).argmax(dim=1) == y
    assert report.is_robust.tolist() == stands.tolist()
    assert "Jump-3, eps 0.1" in str(report)
    assert is_reserved("JUMP-3")
    assert "jump-N" in name_faults("unknown", eps=0.1)[0]
