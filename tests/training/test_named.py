import dataclasses

import pytest
import torch
from torch import nn

from art_oat import (
    NFGSM,
    PGD,
    MARTLoss,
    OATClassifier,
    OATTrainer,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    to_conditional,
)
from art_oat.experiment.recipe import Recipe, trainer_for
from art_oat.models import SmallCNN
from art_oat.training import hybrid_loss
from art_oat.training.named import COMBINATIONS, Combination, combination
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, images, labels

SIZE = {"eps": 0.2, "eps_step": None, "norm": "Linf"}
X, Y = images(20, torch.float32).numpy(), labels(20).numpy()


def parts_of(trainer: OATTrainer) -> dict:
    names = ("attack", "fallback", "loss", "weight_perturbation", "ema", "sampling", "clean_share", "seed")
    return {name: getattr(trainer, name) for name in names}


def test_published_is_the_trainer_as_it_comes(classifier):
    assert parts_of(OATTrainer.recipe("published", classifier)) == parts_of(OATTrainer(classifier))


def test_dial_is_published_with_clean_epochs_and_more_of_lam_1(classifier):
    changed = {"sampling": StratifiedSampling({1.0: 5.0}), "clean_share": 0.5}
    assert parts_of(OATTrainer.recipe("dial", classifier)) == parts_of(OATTrainer(classifier)) | changed


def test_dial_weighs_clean_and_attacked_losses_about_alike():
    lams = StratifiedSampling({1.0: 5.0}).draw(LAMBDAS, 6000)
    assert lams.mean() == pytest.approx(5 / 6 * (0.1 + 0.2 + 0.3 + 0.4 + 5) / 9, abs=1e-3)
    assert abs(lams.mean() - 0.5) < 0.1


def test_what_is_given_counts_before_the_recipe(classifier):
    given = {"sampling": StratifiedSampling({0.1: 2.0}), "clean_share": 0.0}
    trainer = OATTrainer.recipe("dial", classifier, **given)
    assert {name: getattr(trainer, name) for name in given} == given


def test_a_recipe_without_lam_1_draws_the_others_alike():
    model = to_conditional(SmallCNN(channels=(4,)), (0.0, 0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer)
    assert OATTrainer.recipe("dial", classifier).sampling == StratifiedSampling()


def test_robust_is_published_with_perturbed_and_averaged_weights(classifier):
    parts = parts_of(OATTrainer.recipe("robust", classifier, eps=0.2, norm="L2", seed=3))
    assert parts == {
        "attack": PGD(0.2, norm="L2"),
        "fallback": None,
        "loss": hybrid_loss,
        "weight_perturbation": WeightPerturbation(0.01),
        "ema": 0.999,
        "sampling": StratifiedSampling(),
        "clean_share": 0.0,
        "seed": 3,
    }


def test_fast_takes_one_step_and_goes_on_by_many(classifier):
    parts = parts_of(OATTrainer.recipe("fast", classifier, eps=0.2, eps_step=0.05))
    assert parts["attack"] == NFGSM(0.2)
    assert parts["fallback"] == PGD(0.2, 0.05)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_named_recipe_trains(name):
    classifier = make_classifier()
    before = [weight.detach().clone() for weight in classifier.model.parameters()]
    trainer = OATTrainer.recipe(name, classifier, eps=0.1)
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1
    changed = [not torch.equal(weight, old) for weight, old in zip(classifier.model.parameters(), before, strict=True)]
    assert any(changed)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_recipe_of_data_and_a_trainer_mean_the_same_by_a_name(name):
    recipe = Recipe(network="small-4", eps=0.2, nb_train=50, **dataclasses.asdict(combination(name)))
    trainer = trainer_for(recipe, recipe.dataset())
    assert parts_of(trainer) == parts_of(OATTrainer.recipe(name, trainer.get_classifier(), eps=0.2))


def test_trades_is_attacked_by_its_divergence_and_mart_by_the_labels(classifier):
    found = {loss: Combination(loss=loss).arguments(classifier, **SIZE) for loss in ("trades", "mart")}
    assert (found["trades"]["loss"], found["mart"]["loss"]) == (TRADESLoss(), MARTLoss())
    assert found["trades"]["attack"] == PGD(0.2, objective="kl")
    assert found["mart"]["attack"] == PGD(0.2)


@pytest.mark.parametrize("loss", [TRADESLoss(), MARTLoss(), hybrid_loss])
def test_without_an_attack_the_trainer_takes_that_of_the_loss(classifier, loss):
    objective = "kl" if isinstance(loss, TRADESLoss) else "cross-entropy"
    assert OATTrainer(classifier, loss=loss).attack == PGD(objective=objective)


def test_a_recipe_that_is_unknown_or_does_not_take_the_norm_is_refused(classifier):
    with pytest.raises(
        ValueError, match=r"recipe must be one of \('dial', 'published', 'robust', 'fast'\), got 'best'"
    ):
        OATTrainer.recipe("best", classifier)
    with pytest.raises(ValueError, match="norm must be Linf for n-fgsm, got L2"):
        OATTrainer.recipe("fast", classifier, norm="L2")


def test_every_fault_of_a_combination_is_named():
    faulty = Combination(attack="n-fgsm", loss="hinge", awp=-1)
    faults = faulty.faults(eps=0.2, eps_step=0.1, norm="Linf")
    assert [fault.split(" must")[0] for fault in faults] == ["eps_step", "loss", "gamma"]


def test_a_loss_that_is_a_class_is_refused_with_what_to_write(classifier):
    with pytest.raises(TypeError, match=r"loss must be callable .*, got the class TRADESLoss: write TRADESLoss\(\)"):
        OATTrainer(classifier, loss=TRADESLoss)
