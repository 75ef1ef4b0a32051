import dataclasses
import math

import pytest
import torch
from torch import nn

from art_oat import (
    NFGSM,
    PGD,
    ALPLoss,
    MARTLoss,
    Method,
    OATClassifier,
    OATTrainer,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    to_conditional,
)
from art_oat.models import SmallCNN
from art_oat.training import METHODS, hybrid_loss
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()


def resolved(method: Method, classifier: OATClassifier) -> Method:
    """The method of a trainer, without the size of attacks by name, which are attacks now."""
    return dataclasses.replace(OATTrainer(classifier, method).method, eps=0.1, eps_step=None, norm="Linf")


def test_published_is_the_trainer_as_it_comes(classifier):
    assert OATTrainer(classifier, Method.published()).method == OATTrainer(classifier).method
    assert resolved(Method(), classifier) == Method(attack=PGD(), loss=hybrid_loss, eps=0.1)


def test_dial_is_published_with_clean_epochs_and_more_of_lam_1():
    assert Method.dial(0.2) == Method(eps=0.2, sampling=StratifiedSampling({1.0: 5.0}), clean_share=0.5)


def test_dial_weighs_clean_and_attacked_losses_about_alike():
    lams = Method.dial().sampling.draw(LAMBDAS, 6000)
    assert lams.mean() == pytest.approx(5 / 6 * (0.1 + 0.2 + 0.3 + 0.4 + 5) / 9, abs=1e-3)
    assert abs(lams.mean() - 0.5) < 0.1


def test_what_is_given_counts_before_the_name():
    given = {"sampling": StratifiedSampling({0.1: 2.0}), "clean_share": 0.0}
    assert Method.dial(**given) == Method(**given)


def test_dial_without_lam_1_draws_the_others_alike():
    model = to_conditional(SmallCNN(channels=(4,)), (0.0, 0.5, 0.7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer)
    drawn = OATTrainer(classifier, Method.dial()).method.sampling.draw(model.lambdas, 90)
    assert [int((drawn == lam).sum()) for lam in model.lambdas] == [30, 30, 30]


def test_robust_is_published_with_logit_pairing_and_perturbed_and_averaged_weights(classifier):
    parts = {"loss": ALPLoss(), "weight_perturbation": WeightPerturbation(0.01), "ema": 0.999}
    expected = Method(attack=PGD(0.2, norm="L2"), eps=0.1, **parts)
    assert resolved(Method.robust(0.2, norm="L2"), classifier) == expected


def test_fast_takes_one_step_and_continues_with_many(classifier):
    method = resolved(Method.fast(eps=0.2, eps_step=0.05), classifier)
    assert (method.attack, method.fallback) == (NFGSM(0.2, noise=1), PGD(0.2, 0.05))
    assert (method.loss, method.ema) == (ALPLoss(), 0.999)


def test_a_fallback_goes_with_the_attack_that_it_guards():
    assert Method.fast(attack="pgd-7").fallback is None
    assert Method.fast(attack=PGD(0.1)).fallback is None
    assert Method.fast(attack=NFGSM(0.1)).fallback is None
    assert Method.fast(attack="n-fgsm").fallback == "pgd-7"
    assert Method.fast(attack="n-fgsm-1", fallback="pgd-3").fallback == "pgd-3"


@pytest.mark.parametrize("loss", ["trades", TRADESLoss()])
def test_weights_are_perturbed_by_less_with_trades_where_they_are(loss):
    assert Method.robust(loss=loss).weight_perturbation == 0.005
    assert Method.robust(loss=loss, weight_perturbation=0.02).weight_perturbation == 0.02
    assert Method.published(loss=loss).weight_perturbation is None


@pytest.mark.parametrize("name", METHODS)
def test_every_named_method_trains(name):
    classifier = make_classifier()
    before = [weight.detach().clone() for weight in classifier.model.parameters()]
    trainer = OATTrainer(classifier, Method.named(name, eps=0.1))
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1
    changed = [not torch.equal(weight, old) for weight, old in zip(classifier.model.parameters(), before, strict=True)]
    assert any(changed)


def test_parts_are_exchanged_by_keyword(classifier):
    parts = {"attack": PGD(0.2), "ema": 0.9}
    expected = OATTrainer(classifier, dataclasses.replace(Method.robust(), **parts)).method
    assert OATTrainer(classifier, Method.robust(), **parts).method == expected
    with pytest.raises(TypeError, match="emma"):
        OATTrainer(classifier, emma=0.9)


def do_nothing(network, x, y):
    return x


@pytest.mark.parametrize("attack", ["pgd-3", PGD(0.2), do_nothing])
def test_an_attack_in_place_of_a_method_stands_for_the_published_method_with_it(classifier, attack):
    assert OATTrainer(classifier, attack, ema=0.9).method == OATTrainer(classifier, attack=attack, ema=0.9).method


@pytest.mark.parametrize("given", ["robust", Method.robust])
def test_a_preset_that_was_not_called_is_taken_for_no_attack(classifier, given):
    with pytest.raises(TypeError, match=r"method must be .*, got .*robust.*: write Method\.robust\(\)"):
        OATTrainer(classifier, given)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("strong", ValueError, "attack must be one of .*got 'strong'"),
        (PGD, TypeError, "attack must be an attack of art_oat, ART or torchattacks"),
        (7, TypeError, "attack must be an attack of art_oat, ART or torchattacks"),
    ],
)
def test_what_is_neither_a_method_nor_an_attack_is_refused(classifier, given, error, text):
    with pytest.raises(error, match=text):
        OATTrainer(classifier, given)


def test_an_attack_is_given_once(classifier):
    with pytest.raises(TypeError, match=r"the attack must be given once, got PGD\(.* and attack='pgd-3'"):
        OATTrainer(classifier, PGD(0.2), attack="pgd-3")


@pytest.mark.parametrize(
    ("loss", "function"), [("trades", TRADESLoss()), ("mart", MARTLoss()), ("alp", ALPLoss()), ("oat", hybrid_loss)]
)
def test_an_attack_by_name_maximizes_what_goes_with_the_loss(classifier, loss, function):
    objective = "kl" if loss == "trades" else "cross-entropy"
    for given in (loss, function):
        method = OATTrainer(classifier, loss=given, eps=0.2).method
        assert (method.loss, method.attack) == (function, PGD(0.2, objective=objective))


def test_every_fault_of_a_method_is_named():
    faults = (
        "norm must be 'Linf'.*fallback must keep to the radius.*loss must be one of.*"
        r"clean_share must lie in \[0, 1\).*ema must be a decay in \(0, 1\).*"
        "weight_perturbation must be a number above 0.*precision must be one of"
    )
    values = {"loss": "hinge", "weight_perturbation": -1, "ema": 0.0, "clean_share": 1.0, "precision": "fp8"}
    with pytest.raises(ValueError, match=faults):
        Method(attack="n-fgsm", norm="L2", fallback=NFGSM(), **values)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": TRADESLoss}, r"loss must be .*, got the class TRADESLoss: write TRADESLoss\(\)"),
        ({"loss": 3}, "loss must be callable"),
        ({"loss": lambda logits, y: logits}, "loss must be callable on"),
        ({"augmentation": "flip"}, "augmentation must be callable"),
        ({"sampling": {1.0: 3}}, "sampling must be a StratifiedSampling"),
        ({"weight_perturbation": "0.01"}, "weight_perturbation must be a WeightPerturbation, its gamma or None"),
    ],
)
def test_what_is_of_another_kind_is_refused(parts, message):
    with pytest.raises(TypeError, match=message):
        Method(**parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"attack": "fgsm"}, "attack must be one of"),
        ({"attack": "n-fgsm", "norm": "L2"}, "norm must be 'Linf' for n-fgsm, got 'L2'"),
        ({"attack": "n-fgsm", "eps_step": 0.1}, "eps_step must be None for n-fgsm"),
        ({"attack": "n-fgsm", "fallback": "n-fgsm"}, "fallback must .* take many steps, such as pgd-7, got n-fgsm"),
        ({"eps": -1}, "eps must be"),
        ({"ema": 0.0}, "ema must be a decay"),
        ({"allow_large_eps": 1}, "allow_large_eps must be True or False"),
        ({"width_sampling": "some"}, "width_sampling must be one of"),
        ({"distills": True}, "distills needs the largest width"),
        *[({"attack_precision": it}, "attack_precision must be one of") for it in ("fp8", "", True)],
        *[
            ({name: share}, rf"{name} must lie in \[0, 1\)")
            for name in ("clean_share", "eps_warmup")
            for share in (1, -0.1, math.nan, "half")
        ],
        *[({"clip_grad_norm": it}, "clip_grad_norm must be a number above 0, or None") for it in (0, -1, math.inf)],
        ({"matches_dropout": 1}, "matches_dropout must be True or False"),
        ({"sync_norms": 1}, "sync_norms must be True or False"),
        ({"sync_norms": True, "matches_dropout": True}, "sync_norms must be False with matches_dropout"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_there_is_a_classifier(parts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Method(**parts)
    with pytest.raises(ValueError, match=r"method must be one of \('dial', 'published', 'robust', 'fast'\), got 'b'"):
        Method.named("b")


@pytest.mark.parametrize("name", ["art:ProjectedGradientDescentPyTorch", "a function"])
def test_only_the_radius_of_an_attack_that_can_be_scaled_may_grow(classifier, name):
    attack = do_nothing if name == "a function" else name
    given = "function" if name == "a function" else "ProjectedGradientDescentPyTorch"
    with pytest.raises(ValueError, match=rf"eps_warmup needs an attack with scaled\(factor\), .*, got {given}"):
        OATTrainer(classifier, attack=attack, eps=0.1, eps_step=0.05, eps_warmup=0.2)


def test_every_field_has_the_line_that_the_command_line_says_of_it():
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(Method))
