import copy
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
from art_oat.training import Checkpoint, CSVLogger, PerStep, RestoreBest, ResumeFile, Validation, hybrid_loss
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite, Residual, images, labels

X = images(20, torch.float32).numpy()
Y = labels(20).numpy()
ATTACK = PGD(eps=0.1, nb_steps=2)
LAM_EACH = np.linspace(0, 1, 20)


def fit(classifier: OATClassifier, seed: int = 0, **options) -> OATTrainer:
    trainer = OATTrainer(classifier, attack=ATTACK, seed=seed)
    trainer.fit(X, Y, **{"batch_size": 10, "nb_epochs": 2, "verbose": False, **options})
    return trainer


def state(classifier: OATClassifier) -> dict[str, torch.Tensor]:
    return copy.deepcopy(classifier.model.state_dict())


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def with_dropout() -> OATClassifier:
    torch.manual_seed(0)
    model = to_conditional(MobileSqueezeExcite(), LAMBDAS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def test_the_same_seed_gives_the_same_weights_also_with_dropout():
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        classifier = with_dropout()
        torch.manual_seed(noise)  # the global generator has no say
        fit(classifier, seed)
        states.append(state(classifier))
    assert is_same(states[0], states[1])
    assert not is_same(states[0], states[2])


def test_training_spares_the_global_generator_and_restores_the_mode(classifier):
    classifier.model.eval()
    random_state = torch.get_rng_state()
    fit(classifier)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not classifier.model.training


FOUR = (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("widths", "options", "trained"),
    [
        ((1.0,), {}, (1.0,)),
        (WIDTHS, {"width_sampling": "all"}, (1.0, 0.75, 0.5)),
        (FOUR, {"width_sampling": "all"}, (1.0, 0.75, 0.5, 0.25)),
        (FOUR, {"width_sampling": "sandwich"}, (1.0, 0.5, 0.25)),
        (FOUR, {"width_sampling": "random"}, (0.25,)),
        (WIDTHS, {"distills": True, "width_sampling": "all"}, (1.0, 0.75, 0.5)),
        (FOUR, {"distills": True, "width_sampling": "sandwich"}, (1.0, 0.5, 0.25)),
    ],
)
@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_one_step_equals_the_method_written_out(widths, heads, options, trained):
    """The sum over widths of the loss at an attack of their own; which widths are drawn follows from the seed."""
    classifier, reference = (make_classifier(widths=widths, heads=heads) for _ in range(2))
    OATTrainer(classifier, attack=ATTACK, seed=3, **options).fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    model, generator = reference.model, torch.Generator().manual_seed(3)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    order = torch.randperm(20, generator=generator)
    order = order[torch.randperm(20, generator=generator)]
    x, y = torch.from_numpy(X)[order], torch.from_numpy(Y)[order]
    lam = StratifiedSampling().draw(LAMBDAS, 20, generator)
    if trained != widths[::-1]:
        torch.randint(2, (), generator=generator)  # the width that is drawn
    attacked, losses, target = lam > 0, [], torch.eye(5)[y]
    for width in trained:
        model.eval()
        x_adv = ATTACK(
            lambda x, width=width: model(x, lam[attacked], width),
            x[attacked], y[attacked], clip_values=(0, 1), generator=generator,
        )  # fmt: skip
        model.train()
        clean, adversarial = model(x, lam, width), model(x_adv, lam[attacked], width)
        terms = (1 - lam) * cross_entropy(clean, target)
        terms[attacked] += lam[attacked] * cross_entropy(adversarial, target[attacked])
        losses.append(terms.mean())
        if width == 1 and options.get("distills"):
            target = clean.softmax(dim=1).detach()
    reference.optimizer.zero_grad()
    sum(losses).backward()
    reference.optimizer.step()
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)


def cross_entropy(logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    return -(probabilities * logits.log_softmax(dim=1)).sum(dim=1)


class Spy:
    """An attack that notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, torch.Tensor]] = []

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.calls.append((network, x))
        return x


def test_every_width_is_attacked_on_its_own_network_on_the_same_samples_at_the_same_lams():
    classifier, spy, losses = make_classifier(widths=WIDTHS), Spy(), []

    def note(logits, logits_adv, y, lam, criterion=None):
        losses.append((y, lam, hybrid_loss(logits, logits_adv, y, lam, criterion)))
        return losses[-1][-1]

    trainer = OATTrainer(classifier, attack=spy, loss=note, width_sampling="all")
    trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
    nb_channels = [network.network.network.body[0].out_channels for network, _ in spy.calls]
    assert nb_channels == [6, 5, 3, 6, 5, 3]  # two steps
    for step in (slice(0, 3), slice(3, 6)):
        assert len({tuple(x.flatten().tolist()) for _, x in spy.calls[step]}) == 1
        assert len({tuple(y.tolist()) for y, _, _ in losses[step]}) == 1
        assert len({tuple(lam.tolist()) for _, lam, _ in losses[step]}) == 1
    assert not any(part.training for network, _ in spy.calls for part in network.modules())
    assert trainer.history[0].loss == pytest.approx(np.mean([loss.item() for _, _, loss in losses]))


def test_three_widths_train_alike_as_a_sandwich_and_all_of_them():
    states = []
    for kind in ("all", "sandwich"):
        classifier = make_classifier(widths=WIDTHS)
        OATTrainer(classifier, attack=ATTACK, width_sampling=kind).fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
        states.append(state(classifier))
    assert is_same(*states)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_a_step_at_one_random_width_leaves_norms_statistics_and_heads_of_the_others_alone(heads):
    trained = set()
    for seed in range(6):
        classifier = make_classifier(widths=WIDTHS, heads=heads)
        before = state(classifier)
        trainer = OATTrainer(classifier, attack=ATTACK, width_sampling="random", seed=seed)
        trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
        after = state(classifier)
        moved = {name for name in after if not torch.equal(after[name], before[name]) and ".film." not in name}
        (index,) = {name.split(".by_width.")[1][0] for name in moved if ".by_width." in name}
        trained.add(int(index))
        own = {name for name in after if f".by_width.{index}." in name and ".film." not in name}
        assert own <= moved
        assert "network.body.0.weight" in moved
    assert trained == {0, 1, 2}


@pytest.mark.parametrize("options", [{}, {"width_sampling": "all"}, {"width_sampling": "all", "distills": True}])
def test_the_same_seed_gives_the_same_weights_at_every_width(options):
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        classifier = make_classifier(widths=WIDTHS)
        torch.manual_seed(noise)
        trainer = OATTrainer(classifier, attack=ATTACK, seed=seed, **options)
        trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
        states.append(state(classifier))
    assert is_same(states[0], states[1])
    assert not is_same(states[0], states[2])


def test_training_lowers_the_loss_of_every_width():
    classifier = make_classifier(widths=WIDTHS)
    trainer = OATTrainer(classifier, attack=PGD(eps=0.02, nb_steps=2))

    def losses() -> list[float]:
        return [classifier.at(lam, width).compute_loss(X, Y).mean() for lam in (0.0, 0.4) for width in WIDTHS]

    before = losses()
    trainer.fit(X, Y, batch_size=20, nb_epochs=30, verbose=False)
    assert all(after < start for after, start in zip(losses(), before, strict=True))


@pytest.mark.parametrize("loss_at_fault", [2, 3, 5])
def test_after_a_non_finite_loss_of_any_width_the_state_is_that_of_the_last_good_step(loss_at_fault):
    classifier = make_classifier(widths=WIDTHS)
    seen: list[dict[str, torch.Tensor]] = []
    trainer = OATTrainer(
        classifier, attack=ATTACK, loss=diverging_at(loss_at_fault, classifier, seen), width_sampling="all"
    )
    before = state(classifier)
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 1"):
        trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
    after = state(classifier)
    if loss_at_fault <= 3:  # within the first step
        assert is_same(after, before)
    else:
        weights = {name for name, _ in classifier.model.named_parameters()}
        assert is_same({name: after[name] for name in weights}, {name: before[name] for name in weights})
        assert not is_same(after, before)  # the statistics of the first step are good
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


@pytest.mark.parametrize("width", WIDTHS)
def test_an_epoch_that_leaves_any_width_without_finite_scores_is_undone(width):
    classifier = make_classifier(widths=WIDTHS)

    class Breaks(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                classifier.model.network.norm.at(width).adversarial.weight.fill_(torch.inf)

    classifier.set_params(optimizer=Breaks(classifier.model.parameters(), lr=0.01))
    with pytest.raises(RuntimeError, match=r"training must stay finite, got a (score|weight) of"):
        OATTrainer(classifier, attack=ATTACK).fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    for each in WIDTHS:
        assert np.isfinite(classifier.predict(X, lam=0.3, width=each)).all()


def test_smaller_widths_that_learn_from_the_largest_are_attacked_away_from_the_labels():
    classifier, attacked, targets = make_classifier(widths=WIDTHS), [], []

    def attack(network, x, y, *, clip_values=None, generator=None):
        attacked.append(y)
        return x

    def note(logits, logits_adv, y, lam, criterion=None):
        targets.append(y)
        return hybrid_loss(logits, logits_adv, y, lam, criterion)

    OATTrainer(classifier, attack=attack, loss=note, width_sampling="all", distills=True).fit(
        X, Y, batch_size=20, nb_epochs=1, verbose=False
    )
    assert len({tuple(y.tolist()) for y in attacked}) == 1
    assert attacked[0].dtype == torch.int64
    assert targets[0].shape == (20,)
    assert targets[1] is targets[2]
    torch.testing.assert_close(targets[1].sum(dim=1), torch.ones(20))
    assert not targets[1].requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_sampling": "some"}, "width_sampling must be one of .*, got 'some'"),
        ({"width_sampling": None}, "width_sampling must be one of .*, got None"),
        ({"width_sampling": "random", "distills": True}, "distills needs the largest width in every step"),
    ],
)
def test_a_way_to_draw_widths_that_does_not_work_is_refused(classifier, options, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(classifier, **options)


def test_samples_with_lam_0_are_not_attacked_and_the_network_is_in_evaluation_mode(classifier):
    spy = Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, batch_size=12, nb_epochs=1, verbose=False)
    assert [len(x) for _, x in spy.calls] == [10, 6]  # batches of 12 and 8, less ceil(B / 6) zeros
    assert not any(part.training for network, _ in spy.calls for part in network.modules())


def test_a_lam_of_0_alone_is_ordinary_training():
    torch.manual_seed(0)
    model = to_conditional(Residual(), (0.0,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    spy = Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, nb_epochs=1, verbose=False)
    assert spy.calls == []


def test_the_attack_sees_inputs_before_preprocessing():
    classifier, spy = make_classifier(preprocessing=(0.5, 0.25)), Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, nb_epochs=1, verbose=False)
    network, x = spy.calls[0]
    assert x.min() >= 0
    assert len(network.operations) == 1


def of_one_lam() -> OATClassifier:
    """Every sample has lam 1, so that the order within a batch does not matter."""
    torch.manual_seed(0)
    model = to_conditional(Residual(), (1.0,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def test_a_loader_and_a_generator_train_as_arrays_do():
    states = []
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    sources = [(X, Y), (DataLoader(dataset, batch_size=20),), (NumpyDataGenerator(X, np.eye(5)[Y], 20),)]
    for source in sources:
        trainer = OATTrainer(of_one_lam(), attack=PGD(eps=0.1, nb_steps=2, has_random_start=False))
        train = trainer.fit_generator if isinstance(source[0], NumpyDataGenerator) else trainer.fit
        train(*source, nb_epochs=2, verbose=False)
        states.append(state(trainer.classifier))
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(states[2], states[0], rtol=1e-4, atol=1e-6)


def diverging_at(step: int, classifier: OATClassifier, seen: list[dict[str, torch.Tensor]]):
    """The usual loss, but NaN at one step; notes the state that each loss was computed from."""

    def loss(logits, logits_adv, y, lam, criterion=None):
        seen.append(state(classifier))
        value = hybrid_loss(logits, logits_adv, y, lam, criterion)
        return value * float("nan") if len(seen) == step else value

    return loss


def test_after_a_non_finite_loss_the_state_is_that_of_the_last_finite_one(classifier):
    seen: list[dict[str, torch.Tensor]] = []
    trainer = OATTrainer(classifier, attack=ATTACK, loss=diverging_at(3, classifier, seen))
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 2"):
        trainer.fit(X, Y, batch_size=10, nb_epochs=2, verbose=False)
    assert is_same(state(classifier), seen[1])
    assert len(trainer.history) == 1


def test_a_loss_that_is_not_finite_from_the_start_leaves_everything_as_it_was(classifier):
    before = state(classifier)
    with pytest.raises(RuntimeError, match="got a loss of nan in epoch 1"):
        OATTrainer(classifier, attack=ATTACK, loss=diverging_at(1, classifier, [])).fit(X, Y, verbose=False)
    assert is_same(state(classifier), before)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
@pytest.mark.parametrize("nb_epochs", [1, 3])
def test_a_training_that_diverges_leaves_a_network_that_answers(classifier, learning_rate, nb_epochs):
    before = state(classifier)
    classifier.optimizer.param_groups[0]["lr"] = learning_rate
    with pytest.raises(RuntimeError, match="training must stay finite"):
        OATTrainer(classifier, attack=ATTACK).fit(X, Y, batch_size=20, nb_epochs=nb_epochs, verbose=False)
    after = state(classifier)
    assert all(torch.equal(after[name], before[name]) for name, _ in classifier.model.named_parameters())
    assert np.isfinite(classifier.predict(X, lam=LAM_EACH)).all()


def test_the_weights_after_a_non_finite_gradient_are_those_before_the_step(classifier):
    def kink(logits, logits_adv, y, lam, criterion=None):
        return torch.sqrt(logits.sum() * 0) + hybrid_loss(logits, logits_adv, y, lam, criterion)

    good = state(classifier)
    with pytest.raises(RuntimeError, match="got a gradient of nan in epoch 1"):
        OATTrainer(classifier, attack=ATTACK, loss=kink).fit(X, Y, verbose=False)
    assert is_same(state(classifier), good)


def test_every_fault_is_named_before_anything_is_touched(classifier):
    before, x = state(classifier), X.copy()
    x[0] = np.nan
    with pytest.raises(ValueError, match="nb_epochs") as caught:
        OATTrainer(classifier).fit(
            x, Y + 3, (X[:, :, :3], Y), batch_size=0, nb_epochs=0, scheduler=3, callbacks=[CSVLogger(3), RestoreBest()]
        )
    for name in (
        "x must be finite",
        "y must hold",
        "validation x must have",
        "batch_size",
        "scheduler must",
        "CSVLogger must",
    ):
        assert name in str(caught.value)
    assert is_same(state(classifier), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X * 255, Y), "x must lie within clip_values"),
        ((X, Y[:3]), "y must hold one label per sample, 20, got 3"),
        ((X[:0], Y[:0]), "x must hold at least one sample"),
        ((X,), "y must hold the labels of x, got None"),
        ((X.astype(complex), Y), "x must hold real numbers"),
    ],
)
def test_faulty_data_is_refused(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(classifier).fit(*arguments, verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_data": (X, Y, Y)}, r"validation_data must be a pair \(x, y\)"),
        ({"validation_data": 3}, r"validation_data must be a pair \(x, y\) or a Validation, got int"),
        ({"callbacks": [CSVLogger(Path())]}, "CSVLogger must name a file"),
        ({"callbacks": [CSVLogger(3)]}, "CSVLogger must name a file"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"validation_data": Validation(X, Y, 0)}, "interval of the validation must be"),
        ({"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "scheduler must have step"),
    ],
)
def test_faulty_options_are_refused(classifier, options, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(classifier).fit(X, Y, **options)


@pytest.mark.parametrize(("mode", "interval"), [("max", "epoch"), ("min", "step")])
def test_a_plateau_scheduler_that_could_not_see_the_loss_is_refused(classifier, mode, interval):
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer, mode)
    with pytest.raises(ValueError, match="scheduler must have mode 'min' and be stepped per epoch"):
        OATTrainer(classifier).fit(X, Y, scheduler=PerStep(scheduler) if interval == "step" else scheduler)


def test_a_loader_that_yields_nothing_or_no_pairs_is_refused(classifier):
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    with pytest.raises(ValueError, match="an epoch must hold at least one batch"):
        OATTrainer(classifier).fit(DataLoader(TensorDataset(x, y), 64, drop_last=True), verbose=False)
    with pytest.raises(ValueError, match=r"a batch must be a pair \(x, y\)"):
        OATTrainer(classifier).fit(DataLoader(TensorDataset(x, y, y), 10), verbose=False)


def test_flipped_arrays_and_tensors_are_taken(classifier):
    trainer = OATTrainer(classifier, attack=ATTACK)
    trainer.fit(X[:, :, :, ::-1], Y, nb_epochs=1, verbose=False)
    trainer.fit(torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y), nb_epochs=1, verbose=False)
    assert len(trainer.history) == 2


def test_a_float64_model_trains_at_lams_that_float32_cannot_hold():
    model = to_conditional(Residual().double(), (0.0, 0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 0.99999999))
    assert fit(classifier, nb_epochs=1).history[0].loss > 0


def test_a_faulty_batch_of_a_loader_is_refused(classifier):
    dataset = TensorDataset(torch.from_numpy(X), torch.full((20,), 9))
    with pytest.raises(ValueError, match="y must hold class indices"):
        OATTrainer(classifier).fit(DataLoader(dataset, batch_size=5), verbose=False)
    with pytest.raises(ValueError, match="y must be None with a DataLoader"):
        OATTrainer(classifier).fit(DataLoader(dataset), Y, verbose=False)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: OATTrainer("classifier"), TypeError, "classifier must be an OATClassifier"),
        (lambda: OATTrainer(make_classifier(), attack=PGD), TypeError, "attack must be an attack of"),
        (
            lambda: OATTrainer(make_classifier(), sampling=StratifiedSampling({0.7: 1})),
            ValueError,
            "weights must be for",
        ),
        (lambda: OATTrainer(without("_optimizer")), ValueError, "must hold an optimizer"),
        (lambda: OATTrainer(without("_loss")), TypeError, "loss must be a CrossEntropyLoss, got NLLLoss"),
    ],
)
def test_a_trainer_of_the_wrong_parts_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def without(part: str) -> OATClassifier:
    classifier = make_classifier()
    setattr(classifier, part, nn.NLLLoss() if part == "_loss" else None)
    return classifier


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


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_scale_of_class_weights_does_not_weigh_widths_against_each_other(scale):
    classifier = make_classifier(widths=WIDTHS)
    classifier._loss = nn.CrossEntropyLoss(weight=torch.full((5,), scale))
    trainer = OATTrainer(classifier, attack=ATTACK, width_sampling="all", distills=True)
    trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    plain = OATTrainer(make_classifier(widths=WIDTHS), attack=ATTACK, width_sampling="all", distills=True)
    plain.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    assert trainer.history[0].loss == pytest.approx(plain.history[0].loss, rel=1e-5)


@pytest.mark.parametrize("attack_precision", ["float32", "bf16"])
def test_the_file_of_a_training_with_another_precision_of_the_attack_is_refused(tmp_path, attack_precision):
    fit(make_classifier(), callbacks=[ResumeFile(tmp_path / "state.pt")])
    classifier = make_classifier()
    before = state(classifier)
    trainer = OATTrainer(classifier, attack=ATTACK, attack_precision=attack_precision)
    with pytest.raises(ValueError, match=f"attack_precision was None, is {attack_precision}"):
        trainer.fit(X, Y, batch_size=10, nb_epochs=2, callbacks=[ResumeFile(tmp_path / "state.pt")], verbose=False)
    assert is_same(state(classifier), before)


def test_a_training_with_an_attack_in_bf16_that_is_cut_is_gone_on_with(tmp_path):
    def interrupt(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    def train(classifier, **options):
        trainer = OATTrainer(classifier, attack=ATTACK, attack_precision="bf16")
        trainer.fit(X, Y, batch_size=10, nb_epochs=2, verbose=False, **options)
        return state(classifier)

    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(make_classifier(), callbacks=[ResumeFile(path), interrupt])
    assert is_same(train(make_classifier(), callbacks=[ResumeFile(path)]), train(make_classifier()))


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


def test_the_radius_of_a_fallback_and_of_a_recipe_is_looked_at_too(classifier):
    with pytest.raises(ValueError, match=r"eps of fallback must be below 0.5"):
        OATTrainer(classifier, attack=NFGSM(0.1), fallback=PGD(8))
    with pytest.raises(ValueError, match=r"^eps must be below 0.5"):
        OATTrainer(classifier, Method.published(eps=8))
    assert OATTrainer(classifier, Method.published(eps=8), allow_large_eps=True).method.attack == PGD(8)


def test_torchattacks_count_in_0_to_1_whatever_the_clip_values_are():
    classifier = make_classifier(clip_values=(0, 255))
    with pytest.raises(ValueError, match=r"in units of torchattacks' images, whose clip_values are \[0, 1\]"):
        OATTrainer(classifier, attack=an_attack_of_torchattacks(classifier))
    assert OATTrainer(classifier, attack=an_attack_of_art(classifier)).method.attack.eps == 8


def test_a_radius_that_hardly_changes_an_input_is_doubted_once_where_the_trainer_is_made():
    classifier = make_classifier(clip_values=(0, 255))
    makes = (
        lambda: OATTrainer(classifier),
        lambda: OATTrainer(classifier, attack=NFGSM(8 / 255), fallback=PGD()),
        lambda: OATTrainer(classifier, Method.fast()),
    )
    for make in makes:
        with pytest.warns(
            UserWarning, match=r"eps = 8/255 \(Linf\) is 0.031 of 255 levels.*\[0, 1\] is 8 there"
        ) as told:
            make()
        assert [Path(warning.filename).name for warning in told] == ["test_trainer.py"]
