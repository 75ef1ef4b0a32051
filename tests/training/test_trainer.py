from pathlib import Path

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_oat import NFGSM, PGD, Method, OATClassifier, OATTrainer, StratifiedSampling, to_conditional
from art_oat.training import Checkpoint, CSVLogger, RestoreBest, Validation
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite, Residual
from tests.training.trained import ATTACK, X, Y, classifier_of, fit, is_same, state, trained


def with_dropout() -> OATClassifier:
    torch.manual_seed(0)
    return classifier_of(to_conditional(MobileSqueezeExcite(), LAMBDAS))


ALL = {"width_sampling": "all"}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (with_dropout, {}),
        *[(lambda: make_classifier(widths=WIDTHS), it) for it in ({}, ALL, {**ALL, "distills": True})],
    ],
)
def test_the_same_seed_gives_the_same_weights_with_dropout_and_at_every_width(make, options):
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        classifier = make()
        torch.manual_seed(noise)  # the global generator has no say
        states.append(trained(classifier, seed=seed, **options))
    assert is_same(states[0], states[1])
    assert not is_same(states[0], states[2])


def test_training_spares_the_global_generator_and_restores_the_mode(classifier):
    classifier.model.eval()
    random_state = torch.get_rng_state()
    fit(classifier)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not classifier.model.training


@pytest.mark.slow(seconds=1)
def test_training_lowers_the_loss_of_every_width():
    classifier = make_classifier(widths=WIDTHS)

    def losses() -> list[float]:
        return [classifier.at(lam, width).compute_loss(X, Y).mean() for lam in (0.0, 0.4) for width in WIDTHS]

    before = losses()
    fit(classifier, attack=PGD(eps=0.02, nb_steps=2), batch_size=20, nb_epochs=30)
    assert all(after < start for after, start in zip(losses(), before, strict=True))


def test_every_fault_is_named_before_anything_is_touched(classifier):
    before, x = state(classifier), X.copy()
    x[0] = np.nan
    with pytest.raises(ValueError, match="nb_epochs") as caught:
        OATTrainer(classifier).fit(
            x, Y + 3, (X[:, :, :3], Y), batch_size=0, nb_epochs=0, scheduler=3, callbacks=[CSVLogger(3), RestoreBest()]
        )
    for name in ("x must be finite", "y must hold", "validation x must have", "batch_size", "scheduler", "CSVLogger"):
        assert name in str(caught.value)
    assert is_same(state(classifier), before)


DATASET = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
TRIPLES = TensorDataset(*DATASET.tensors, torch.from_numpy(Y))
MISLABELED = TensorDataset(torch.from_numpy(X), torch.full((20,), 9))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X * 255, Y), {}, "x must lie within clip_values"),
        ((X, Y[:3]), {}, "y must hold one label per sample, 20, got 3"),
        ((X[:0], Y[:0]), {}, "x must hold at least one sample"),
        ((X,), {}, "y must hold the labels of x, got None"),
        ((X.astype(complex), Y), {}, "x must hold real numbers"),
        ((DataLoader(DATASET, 64, drop_last=True),), {}, "an epoch must hold at least one batch"),
        ((DataLoader(TRIPLES, 10),), {}, r"a batch must be a pair \(x, y\)"),
        ((DataLoader(MISLABELED, 5),), {}, "y must hold class indices"),
        ((DataLoader(DATASET), Y), {}, "y must be None with a DataLoader"),
        ((X, Y, (X, Y, Y)), {}, r"validation_data must be a pair \(x, y\)"),
        ((X, Y, 3), {}, r"validation_data must be a pair \(x, y\) or a Validation, got int"),
        ((X, Y, Validation(X, Y, 0)), {}, "interval of the validation must be"),
        ((X, Y), {"callbacks": [CSVLogger(Path())]}, "CSVLogger must name a file"),
        ((X, Y), {"batch_size": 1}, "batch_size must be at least 2"),
        ((X, Y), {"batch_size": np.array([1, 1])}, "batch_size must be a whole number"),
        ((X, Y), {"nb_epochs": torch.ones(2)}, "nb_epochs must be a whole number"),
        ((X, Y), {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "scheduler must have step"),
    ],
)
def test_faulty_data_and_options_are_refused(classifier, arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        OATTrainer(classifier).fit(*arguments, verbose=False, **options)


def test_flipped_arrays_and_tensors_are_taken(classifier):
    assert len(fit(classifier, X[:, :, :, ::-1], Y).history) == 2
    assert len(fit(classifier, torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)).history) == 2


def test_a_float64_model_trains_at_lams_that_float32_cannot_hold():
    model = to_conditional(Residual().double(), (0.0, 0.1))
    assert fit(classifier_of(model, clip_values=(0, 0.99999999))).history[0].loss > 0


def without(part: str) -> OATClassifier:
    classifier = make_classifier()
    setattr(classifier, part, nn.NLLLoss() if part == "_loss" else None)
    return classifier


@pytest.mark.parametrize(
    ("make", "parts", "error", "message"),
    [
        (lambda: "classifier", {}, TypeError, "classifier must be an OATClassifier"),
        (make_classifier, {"attack": PGD}, TypeError, "attack must be an attack of"),
        (make_classifier, {"sampling": StratifiedSampling({0.7: 1})}, ValueError, "weights must be for"),
        (lambda: without("_optimizer"), {}, ValueError, "must hold an optimizer"),
        (lambda: without("_loss"), {}, TypeError, "loss must be a CrossEntropyLoss, got NLLLoss"),
    ],
)
def test_a_trainer_of_the_wrong_parts_is_refused(make, parts, error, message):
    with pytest.raises(error, match=message):
        OATTrainer(make(), **parts)


def test_it_is_an_art_trainer_that_gives_back_its_classifier(classifier):
    trainer = OATTrainer(classifier)
    assert isinstance(trainer, Trainer)
    assert trainer.get_classifier() is classifier


def test_label_smoothing_and_class_weights_of_the_classifier_are_honored():
    losses = []
    for options in ({}, {"label_smoothing": 0.3}, {"weight": torch.arange(5.0) + 1}):
        classifier = make_classifier()
        classifier._loss = nn.CrossEntropyLoss(**options)
        losses.append(fit(classifier, nb_epochs=1).history[0].loss)
    assert len(set(losses)) == 3


def test_fit_generator_takes_every_option_of_fit(classifier, tmp_path):
    trainer, told = OATTrainer(classifier, attack=ATTACK, ema=0.5), []
    trainer.fit_generator(
        NumpyDataGenerator(X, Y, 10),
        2,
        Validation(X, Y, interval=2),
        lambda progress: 1 - progress,
        callbacks=[Checkpoint(tmp_path / "best"), RestoreBest(), CSVLogger(tmp_path / "log.csv"), told.append],
        verbose=False,
    )
    assert [bool(record.validation) for record in told] == [False, True]
    assert trainer.best_epoch == 2
    assert {path.name for path in tmp_path.iterdir()} == {"best", "log.csv"}


def test_what_fit_generator_cannot_take_is_refused(classifier):
    trainer = OATTrainer(classifier)
    with pytest.raises(TypeError, match=r"generator must have get_batch\(\), size and batch_size, got ndarray"):
        trainer.fit_generator(X)
    generator = NumpyDataGenerator(X, Y, 10)
    with pytest.raises(TypeError, match="nb_epoch"):
        trainer.fit_generator(generator, nb_epoch=3)
    with pytest.raises(ValueError, match="y must be None with a NumpyDataGenerator"):
        trainer.fit_generator(generator, y=Y)
    generator._size = None
    with pytest.raises(ValueError, match="generator must know its size"):
        trainer.fit_generator(generator)


# how far an attack goes


def an_attack_of_art(classifier):
    return FastGradientMethod(classifier, eps=8)


def an_attack_of_torchattacks(classifier):
    return torchattacks.FGSM(classifier.at(1.0).as_module(), eps=8)


@pytest.mark.parametrize("make", [lambda _: PGD(8), lambda _: NFGSM(8), an_attack_of_art, an_attack_of_torchattacks])
def test_a_radius_in_another_unit_is_refused_unless_it_is_meant(classifier, make):
    attack = make(classifier)
    with pytest.raises(ValueError, match=r"^eps must be below 0.5 \(Linf\).*For 8 of 255 levels, write 8 / 255"):
        OATTrainer(classifier, attack=attack)
    assert OATTrainer(classifier, attack=attack, allow_large_eps=True).method.attack is attack


def test_the_radius_of_a_fallback_and_of_an_attack_by_name_is_looked_at_too(classifier):
    with pytest.raises(ValueError, match=r"eps of fallback must be below 0.5"):
        OATTrainer(classifier, attack=NFGSM(0.1), fallback=PGD(8))
    with pytest.raises(ValueError, match=r"^eps must be below 0.5"):
        OATTrainer(classifier, eps=8)
    assert OATTrainer(classifier, eps=8, allow_large_eps=True).method.attack == PGD(8)


def test_torchattacks_count_in_0_to_1_whatever_the_clip_values_are():
    classifier = make_classifier(clip_values=(0, 255))
    with pytest.raises(ValueError, match=r"in units of torchattacks' images, whose clip_values are \[0, 1\]"):
        OATTrainer(classifier, attack=an_attack_of_torchattacks(classifier))
    assert OATTrainer(classifier, attack=an_attack_of_art(classifier)).method.attack.eps == 8


@pytest.mark.parametrize("method", [Method(), Method(attack=NFGSM(8 / 255), fallback=PGD()), Method.fast()])
def test_a_radius_that_hardly_changes_an_input_is_doubted_once_where_the_trainer_is_made(method):
    classifier = make_classifier(clip_values=(0, 255))
    with pytest.warns(UserWarning, match=r"eps = 8/255 \(Linf\) is 0.031 of 255 levels.*\[0, 1\] is 8 there") as told:
        OATTrainer(classifier, method)
    assert [Path(warning.filename).name for warning in told] == ["test_trainer.py"]


def test_fit_returns_the_history_over_all_of_its_calls_which_is_what_the_logger_writes(classifier, tmp_path):
    trainer = OATTrainer(classifier, attack=ATTACK)
    options = {"nb_epochs": 1, "callbacks": [CSVLogger(tmp_path / "training.csv")], "verbose": False}
    assert len(trainer.fit(X, Y, **options)) == 1
    history = trainer.fit(X, Y, (X, Y), **options)
    history.to_csv(tmp_path / "own.csv")
    assert [record.epoch for record in history] == [1, 2]
    assert (tmp_path / "own.csv").read_text() == (tmp_path / "training.csv").read_text()
