import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from art_oat import PGD, Method, OATTrainer, OperatingPoint
from art_oat.attacks import bind
from art_oat.training import hybrid_loss
from art_oat.training.ema import WeightAverage
from art_oat.training.loop import measure
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS
from tests.training.trained import X, Y, state

ATTACK = PGD(eps=0.1, nb_steps=1)
DECAY = 0.4
"""Reached by the warm-up of the decay, (1 + t) / (10 + t), at t = 5."""


def assert_same(first, second, **tolerance):
    torch.testing.assert_close(first, second, **tolerance or {"rtol": 0, "atol": 0})


def averaged(states: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """The recurrence written out, in float64: the first state is the start, each other one an update."""
    average = {name: tensor.double() for name, tensor in states[0].items()}
    for t, update in enumerate(states[1:]):
        own = min(decay, (1 + t) / (10 + t))
        average = {name: own * average[name] + (1 - own) * tensor.double() for name, tensor in update.items()}
    return average


def random_states(count: int, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 2), "b": (4,)}
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def average_of(states: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    tensors = {name: tensor.clone() for name, tensor in states[0].items()}
    average = WeightAverage(list(tensors.values()), decay)
    for update in states[1:]:
        for name, tensor in tensors.items():
            tensor.copy_(update[name])
        average.update()
    average.install()
    return tensors


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_the_average_equals_its_recurrence(decay):
    states = random_states(40, torch.float64)
    assert_same(average_of(states, decay), averaged(states, decay), rtol=1e-12, atol=1e-12)


def test_beyond_the_warm_up_it_is_the_average_of_torch():
    states = random_states(20, torch.float64)
    decay = 0.1  # (1 + 0) / (10 + 0): the warm-up never lies below it
    network = nn.ParameterDict(states[0])
    reference = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for update in states:
        network.load_state_dict(update)
        reference.update_parameters(network)
    assert_same(average_of(states, decay), dict(reference.module.state_dict()), rtol=1e-12, atol=1e-12)


def test_in_half_precision_small_changes_add_up():
    # the warm-up ends at t = 891; then a step from 1 towards 1.25 is below half of bfloat16's spacing of 2^-7 at 1
    low, high = (torch.tensor([value], dtype=torch.bfloat16) for value in (1.0, 1.25))
    states = [{"a": low}] * 900 + [{"a": high}] * 300
    assert average_of(states, 0.99)["a"].item() == pytest.approx(1.25 - 0.25 * 0.99**300, abs=2**-7)


def noting(classifier, seen):
    """The usual loss; notes the state that each loss was computed from."""

    def loss(*arguments):
        seen.append(state(classifier))
        return hybrid_loss(*arguments)

    return loss


def fit(classifier, *, ema=DECAY, nb_epochs=2, **options) -> OATTrainer:
    arguments = {name: options.pop(name) for name in ("loss", "seed", "width_sampling") if name in options}
    trainer = OATTrainer(classifier, attack=ATTACK, ema=ema, **arguments)
    trainer.fit(X, Y, batch_size=5, nb_epochs=nb_epochs, verbose=False, **options)
    return trainer


def weights_of(classifier, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values[name].double() for name, _ in classifier.model.named_parameters()}


def assert_average(classifier, states: list[dict[str, torch.Tensor]]) -> None:
    """The weights are the average of what they were in these states."""
    expected = averaged([weights_of(classifier, values) for values in states], DECAY)
    assert_same(weights_of(classifier, state(classifier)), expected, rtol=1e-5, atol=1e-6)  # float32 against float64


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("widths", "heads"), [((1.0,), "shared"), (WIDTHS, "shared"), (WIDTHS, "per-width")])
def test_after_fit_weights_are_the_average_of_the_start_and_the_weights_after_every_step(widths, heads):
    """Those of every width; statistics are averaged, too."""
    plain, classifier = (make_classifier(widths=widths, heads=heads) for _ in range(2))
    seen = []
    fit(plain, ema=None, loss=noting(plain, seen), width_sampling="all")
    states = [*seen[:: len(widths)], state(plain)]  # a loss per width in every step, which all begin alike
    fit(classifier, width_sampling="all")
    assert_average(classifier, states)
    found = state(classifier)
    moved = [name for name, start in seen[0].items() if "running" in name and not torch.equal(start, states[-1][name])]
    assert len(widths) == 1 or {name.split(".by_width.")[1][0] for name in moved} == {"0", "1", "2"}
    assert not any(torch.equal(found[name], states[-1][name]) for name in moved)
    assert any((found[name] - states[-1][name]).abs().max() > 1e-4 for name in weights_of(classifier, found))
    for lam, width in itertools.product((0.0, 0.4, 1.0), widths):
        torch.testing.assert_close(
            torch.from_numpy(classifier.predict(X, lam=lam, width=width)),
            classifier.model.eval()(torch.from_numpy(X), lam, width).detach(), rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_statistics_are_averaged_as_well_and_counters_and_codes_are_not():
    plain, classifier = make_classifier(), make_classifier()
    start, seen = state(plain), []
    fit(plain, ema=None, nb_epochs=1, loss=noting(plain, seen))
    fit(classifier, nb_epochs=1)
    # weights are known to be good once the next step's loss has been computed, when its batch is in the statistics
    expected = averaged([start, *seen[1:], state(plain)], DECAY)
    actual, raw = state(classifier), state(plain)
    for name, tensor in actual.items():
        if name.endswith("num_batches_tracked"):
            assert tensor == raw[name]
        else:
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)  # float32
    assert torch.equal(actual["encoding.table"], start["encoding.table"])


def test_frozen_weights_stay_exactly_as_they_are(classifier):
    head = classifier.model.network.head.weight.requires_grad_(False)
    before = head.clone()
    fit(classifier)
    assert torch.equal(head, before)


@pytest.mark.slow(seconds=1)
def test_the_raw_weights_train_whatever_the_average_is():
    losses = []
    for ema in (None, 0.5, 0.99):
        trainer = fit(make_classifier(), ema=ema, validation_data=(X, Y), nb_epochs=3)
        losses.append([record.loss for record in trainer.history])
    assert losses[0] == losses[1] == losses[2]


def test_validation_and_callback_meet_the_average_which_the_classifier_holds_in_the_end(classifier):
    seen = []
    trainer = fit(
        classifier,
        ema=0.99,
        nb_epochs=3,
        validation_data=(X, Y),
        callbacks=[lambda record: seen.append((state(classifier), classifier.predict(X, lam=0.4)))],
    )
    assert_same(seen[-1][0], state(classifier))
    for (weights, scores), record in zip(seen, trainer.history, strict=True):
        holder = make_classifier()
        holder.model.load_state_dict(weights)
        np.testing.assert_array_equal(holder.predict(X, lam=0.4), scores)
        points = [OperatingPoint(*it) for it in itertools.product(holder.model.lambdas, holder.model.widths)]
        assert record.validation == tuple(measure(holder, points, *holder.as_tensors(X, Y), bind(ATTACK, holder), 0))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_average_stays_behind_however_training_ends(classifier, error):
    seen = []

    def fail_at_step_4(*arguments):
        seen.append(state(classifier))
        if len(seen) == 4:
            raise error
        return hybrid_loss(*arguments)

    with pytest.raises(error):
        fit(classifier, loss=fail_at_step_4)
    assert_average(classifier, seen[:3])  # the state that step 4 began with is not known to be good


@pytest.mark.parametrize("batch_size", [20, 10])  # found at the end of the epoch, and in the second step
def test_an_average_never_holds_what_diverged(classifier, batch_size):
    before = state(classifier)
    classifier.optimizer.param_groups[0]["lr"] = 1e30
    trainer = OATTrainer(classifier, attack=ATTACK, ema=0.9)
    with pytest.raises(RuntimeError, match="training must stay finite"):
        trainer.fit(X, Y, batch_size=batch_size, nb_epochs=1, verbose=False)
    for name, parameter in classifier.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert all(np.isfinite(classifier.predict(X, lam=lam)).all() for lam in LAMBDAS)


def test_the_next_fit_trains_on_from_the_average(classifier):
    seen = []
    trainer = OATTrainer(classifier, attack=ATTACK, ema=0.9, loss=noting(classifier, seen))
    trainer.fit(X, Y, nb_epochs=1, verbose=False)
    between = state(classifier)
    seen.clear()
    trainer.fit(X, Y, nb_epochs=1, verbose=False)
    for name, parameter in classifier.model.named_parameters():
        assert torch.equal(seen[0][name], between[name])
        assert parameter.isfinite().all()


@pytest.mark.parametrize("ema", [0, 1, 1.5, float("nan"), "0.9", True])
def test_a_decay_outside_0_and_1_is_refused(ema):
    with pytest.raises((TypeError, ValueError), match=r"ema must be a decay in \(0, 1\)"):
        Method(ema=ema)
