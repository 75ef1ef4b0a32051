import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from art.config import ART_DATA_PATH

from art_oat import PGD, OATClassifier, OATTrainer, OperatingPoint, WeightPerturbation, to_conditional
from art_oat.training import Callback
from tests.classifier.subjects import COPIES, LAMS, ONE_HOT, X, Y, plain, snapshot
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual, shaken
from tests.pairs import parametrize_in_pairs


@parametrize_in_pairs(heads=["shared", "per-width"], width=WIDTHS, batch_size=[5, 128], lam=[0.0, 0.3, 0.55, 1.0])
def test_predicting_at_a_point_equals_a_plain_classifier(heads, width, batch_size, lam):
    classifier = make_classifier(widths=WIDTHS, heads=heads)
    expected = plain(classifier, lam, width).predict(X)
    for answer in (
        classifier.predict(X, batch_size, lam=lam, width=width),
        classifier.predict(X, batch_size, lam=np.full(12, lam), width=width),
        classifier.at(lam, width).predict(X, batch_size),
    ):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [5, 128])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_one_lam_per_sample_equals_the_points_one_by_one(batch_size, width):
    classifier = make_classifier(widths=(width, 1.0) if width < 1 else (1.0,))
    expected = np.vstack([classifier.predict(X[i : i + 1], lam=float(LAMS[i]), width=width) for i in range(12)])
    answer = classifier.predict(X, batch_size, lam=LAMS, width=width)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_single_sample_may_have_its_lam_in_a_list_or_an_array():
    model = to_conditional(Residual(), (0.0, 0.3))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    expected = classifier.predict(X[:1], lam=0.3)
    for lam in ([0.3], np.array(0.3), np.float32(0.3), torch.tensor(0.3)):
        np.testing.assert_array_equal(classifier.predict(X[:1], lam=lam), expected)


def test_the_width_of_a_call_wins_over_the_default_and_leaves_it_alone():
    classifier = make_classifier(widths=WIDTHS)
    classifier.width = 0.75
    np.testing.assert_array_equal(classifier.predict(X, lam=0.3), classifier.predict(X, lam=0.3, width=0.75))
    np.testing.assert_allclose(
        classifier.predict(X, lam=LAMS), classifier.predict(X, lam=LAMS, width=0.75), rtol=1e-4, atol=1e-5
    )
    assert classifier.at(0.3).point == OperatingPoint(0.3, 0.75)
    assert classifier.at(width=0.5).point == OperatingPoint(0.0, 0.5)
    assert not np.allclose(classifier.predict(X, lam=0.3, width=0.5), classifier.predict(X, lam=0.3))
    assert classifier.width == classifier.get_params()["width"] == 0.75


@pytest.mark.parametrize(
    ("widths", "width", "where"), [((1.0,), 1.0, ".adversarial."), (WIDTHS, 0.75, ".by_width.1.adversarial.")]
)
def test_predicting_in_training_mode_moves_the_statistics_of_the_width_alone_as_in_art(widths, width, where):
    classifier = make_classifier(widths=widths)
    before = copy.deepcopy(classifier.model.state_dict())
    for lam in (0.3, np.full(12, 0.3)):
        classifier.predict(X, training_mode=True, lam=lam, width=width)
    moved = [name for name, tensor in classifier.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved
    assert all(where in name for name in moved)


def test_predicting_at_one_lam_per_sample_touches_nothing(classifier):
    classifier.model.train()
    before = snapshot(classifier)
    classifier.predict(X, lam=LAMS)
    assert snapshot(classifier) == before


def test_no_samples_give_no_scores(classifier):
    assert classifier.predict(X[:0], lam=0.3).shape == (0, 5)


def test_flipped_and_foreign_arrays_are_read(classifier):
    flipped = X[:, :, :, ::-1]
    np.testing.assert_array_equal(classifier.predict(flipped), classifier.predict(flipped.copy()))
    np.testing.assert_array_equal(classifier.predict(X.astype(">f4")), classifier.predict(X))


def test_a_bfloat16_model_predicts():
    model = to_conditional(Residual().to(torch.bfloat16))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    assert classifier.predict(X, lam=0.3).dtype == np.float32


@pytest.mark.parametrize("keyword", ["logits", "verbose", "raw", "standardise_output"])
def test_keywords_that_art_passes_are_ignored(classifier, keyword):
    np.testing.assert_array_equal(classifier.predict(X, lam=0.3, **{keyword: True}), classifier.predict(X, lam=0.3))


@pytest.mark.parametrize(
    ("error", "message", "values"),
    [
        (ValueError, "lam must lie in", [{"lam": lam} for lam in (2.5, np.full(12, 2.5), np.full(12, np.nan))]),
        (ValueError, "lam must be one number, or hold 12", [{"lam": LAMS[:3]}]),
        (
            TypeError,
            "lam must be one number",
            [{"lam": lam} for lam in ("a", ["a"] * 12, [None] * 12, np.ones(12, dtype=bool), True)],
        ),
        (ValueError, "batch_size must be a whole number", [{"batch_size": size} for size in (0, -1)]),
        (TypeError, "batch_size must be a whole number", [{"batch_size": size} for size in (2.5, True, "5", None)]),
        (TypeError, "lam must be an array, got list that is none", [{"lam": [[0.1], [0.1, 0.2]]}]),
        (ValueError, "lam must hold no masked values", [{"lam": np.ma.array(LAMS, mask=LAMS > 0.5)}]),
        (TypeError, "predict takes lam and width as keywords, got lambda_", [{"lambda_": 0.3}]),
    ],
)
def test_what_cannot_be_predicted_at_is_refused(classifier, error, message, values):
    for options in values:
        with pytest.raises(error, match=message):
            classifier.predict(X, **options)


@pytest.mark.parametrize("width", [0.6, 2, 0, -0.5, np.nan])
def test_a_width_that_was_not_trained_is_refused(width):
    classifier = make_classifier(widths=WIDTHS)
    for call in (
        lambda: classifier.predict(X, lam=0.3, width=width),
        lambda: classifier.predict(X, lam=LAMS, width=width),
        lambda: classifier.at(0.3, width),
        lambda: classifier.set_params(width=width),
    ):
        with pytest.raises(ValueError, match="width must"):
            call()
    assert classifier.width == 1.0


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.full((2, 1, 6, 6), np.nan), ValueError, "x must be finite"),
        (np.zeros((2, 3, 6, 6)), ValueError, r"x must have shape \(N, 1, 6, 6\), got \(2, 3, 6, 6\)"),
        (np.zeros((2, 1, 6, 6), dtype=complex), TypeError, "x must hold real numbers, got dtype complex128"),
        (np.zeros((2, 1, 6, 6), dtype=bool), TypeError, "x must hold real numbers, got dtype bool"),
        (np.ma.array(X[:2], mask=X[:2] > 0.5), ValueError, "x must hold no masked values"),
        (torch.zeros(2, 1, 6, 6, device="meta"), TypeError, "x must be an array"),
        (None, TypeError, "x must hold real numbers, got dtype object"),
        (0.5, ValueError, r"x must have shape \(N, 1, 6, 6\), got \(\)"),
    ],
    ids=str,
)
def test_faulty_inputs_are_refused_by_name(classifier, x, error, message):
    before = snapshot(classifier)
    calls = [
        lambda: classifier.fit(x, np.zeros(2)),
        lambda: classifier.predict(x, training_mode=True),
        *(lambda it=it: it.predict(x) for it in (classifier, classifier.at(0.3)) if "finite" not in message),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()
    assert snapshot(classifier) == before


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(12, 9), r"y must hold class indices in \[0, 5\), got 9"),
        (0.5 * ONE_HOT, "y must hold probabilities of sum 1 per row, got 12 of 12"),
        (0.9 * ONE_HOT[:3] + 0.02, "y must hold one label per sample, 12, got 3"),
    ],
)
def test_faulty_labels_are_refused_before_anything_is_trained(classifier, y, message):
    before = snapshot(classifier)
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, y, nb_epochs=1)
    assert snapshot(classifier) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_class_probabilities_are_trained_on(classifier, dtype):
    twin = copy.deepcopy(classifier)
    soft = (0.9 * ONE_HOT + 0.02).astype(dtype)
    for own, y in ((classifier, soft), (twin, ONE_HOT)):
        own.fit(X, y, batch_size=12, nb_epochs=1)
    hard_head, head = (own.model.network.head.weight for own in (twin, classifier))
    assert torch.isfinite(head).all()
    assert not torch.equal(head, hard_head)


@pytest.mark.parametrize(
    ("widths", "width", "where", "elsewhere"),
    [
        ((1.0,), 1.0, ".adversarial.", [".clean."]),
        (WIDTHS, 0.5, ".by_width.0.adversarial.", [".by_width.1.", ".by_width.2.", ".clean."]),
    ],
)
def test_fit_trains_at_the_default_point_and_leaves_the_norms_of_others_alone(widths, width, where, elsewhere):
    classifier = make_classifier(widths=widths)
    classifier.set_params(lam=0.3, width=width)
    before, loss = copy.deepcopy(classifier.model.state_dict()), classifier.compute_loss(X, Y, reduction="mean")
    classifier.fit(X, Y, batch_size=12, nb_epochs=20, unknown_to_art=True)
    assert classifier.compute_loss(X, Y, reduction="mean") < loss
    moved = [name for name, tensor in classifier.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any(where in name for name in moved)
    assert not any(part in name for part in elsewhere for name in moved if ".film." not in name)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_answers_alike_at_every_point_trains_alone_and_writes_no_file(make_copy, heads):
    files = set(Path(ART_DATA_PATH).glob("*"))
    classifier = make_classifier(widths=WIDTHS, heads=heads)
    classifier.fit(X, Y, nb_epochs=1)
    classifier.set_params(lam=0.3, width=0.75)
    twin = make_copy(classifier)
    assert (twin.lam, twin.width, twin.model.widths, twin.device) == (0.3, 0.75, WIDTHS, classifier.device)
    before = {(lam, width): classifier.predict(X, lam=lam, width=width) for lam in (0.0, 0.3) for width in WIDTHS}
    for (lam, width), expected in before.items():
        np.testing.assert_array_equal(twin.predict(X, lam=lam, width=width), expected)
        np.testing.assert_array_equal(make_copy(classifier.at(lam, width)).predict(X), expected)
    OATTrainer(twin, attack=PGD(0.1, nb_steps=1)).fit(X, Y, nb_epochs=1, verbose=False)
    for (lam, width), expected in before.items():
        np.testing.assert_array_equal(classifier.predict(X, lam=lam, width=width), expected)
        assert not np.allclose(twin.predict(X, lam=lam, width=width), expected)
    assert set(Path(ART_DATA_PATH).glob("*")) == files


def test_saved_weights_load_into_a_model_of_the_same_kind(classifier, tmp_path):
    classifier.save("weights", str(tmp_path))
    other = make_classifier()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    other.model.load_state_dict(torch.load(tmp_path / "weights.model", weights_only=True))
    for lam in (0.0, 0.3):
        np.testing.assert_array_equal(classifier.predict(X, lam=lam), other.predict(X, lam=lam))


def test_a_clone_for_refitting_keeps_the_parameters_and_has_fresh_weights_at_every_width():
    classifier = make_classifier(widths=WIDTHS, heads="per-width")
    classifier.set_params(lam=0.3, width=0.75)
    clone, before = classifier.clone_for_refitting(), classifier.predict(X)
    assert isinstance(clone, OATClassifier)
    assert (clone.lam, clone.width, clone.model.widths) == (0.3, 0.75, WIDTHS)
    assert torch.equal(clone.model.encoding.table, classifier.model.encoding.table)
    for width in WIDTHS:
        assert not np.allclose(clone.predict(X, lam=0.3, width=width), classifier.predict(X, lam=0.3, width=width))
        clean, adversarial = (clone.predict(X, lam=lam, width=width) for lam in (0.0, 1.0))
        np.testing.assert_array_equal(clean, adversarial)  # FiLM and statistics are reset
    clone.fit(X, Y, nb_epochs=1)
    np.testing.assert_array_equal(classifier.predict(X), before)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_clone_for_refitting_has_an_optimizer_of_the_same_kind(classifier, kind):
    classifier.set_params(optimizer=kind(classifier.model.parameters(), lr=0.02, weight_decay=0.1))
    clone = classifier.clone_for_refitting()
    (group,) = clone.optimizer.param_groups
    assert type(clone.optimizer) is kind
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.1)
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in clone.model.parameters()]


def test_nothing_is_cloned_without_an_optimizer():
    classifier = OATClassifier(shaken(Residual(), torch.float32), torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    with pytest.raises(ValueError, match="optimizer must be given for a clone to be refitted, got None"):
        classifier.clone_for_refitting()


class Wordy(Residual):
    """Gives more than scores."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


WAY_OUT = r"got (tuple|dict)\. Wrap it in a module that returns the scores alone"
OF_ANOTHER = torch.optim.SGD(Residual().parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("error", "model", "shape", "nb_classes", "optimizer", "message"),
    [
        (TypeError, Residual, (1, 6, 6), 5, None, "convert it: to_conditional"),
        (ValueError, lambda: shaken(Residual()), (3, 6, 6), 5, None, r"input_shape \(3, 6, 6\) must fit the network"),
        (ValueError, lambda: to_conditional(Wordy(lambda it: (it, it))), (1, 6, 6), 5, None, WAY_OUT),
        (ValueError, lambda: to_conditional(Wordy(lambda it: {"scores": it})), (1, 6, 6), 5, None, WAY_OUT),
        (
            ValueError,
            lambda: to_conditional(Residual()),
            (1, 6, 6),
            7,
            OF_ANOTHER,
            r"optimizer must hold parameters of the converted model.*nb_classes scores.*got \[1, 5\]",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_all_at_once(error, model, shape, nb_classes, optimizer, message):
    with pytest.raises(error, match=message):
        OATClassifier(model(), torch.nn.CrossEntropyLoss(), shape, nb_classes, optimizer)


@pytest.mark.parametrize(
    ("shape", "nb_classes", "message"),
    [
        ((1, 8, "8"), 10, r"input_shape must hold whole numbers, each at least 1, got \(1, 8, '8'\)"),
        ((1, 0), 10, "input_shape must hold whole numbers"),
        (64, 10, "input_shape must hold whole numbers, each at least 1, got 64"),
        ((1, 6, 6), 1, "nb_classes must be a whole number, at least 2, got 1"),
        (None, True, "input_shape must .* nb_classes must "),
    ],
)
def test_sizes_that_are_none_are_refused_by_name(shape, nb_classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        OATClassifier(to_conditional(Residual()), torch.nn.CrossEntropyLoss(), shape, nb_classes)


def weights_of(classifier: OATClassifier) -> tuple[float, ...]:
    """Tell states of a network apart: sums of its tensors, which differ in their last bits after every step."""
    return tuple(float(tensor.double().sum()) for tensor in classifier.model.state_dict().values())


@pytest.mark.slow(seconds=1)
def test_snapshots_taken_during_a_training_hold_the_weights_after_a_whole_step():
    """The steps perturb weights on their way and write statistics several times; an average is swapped in and out."""
    classifier, taken, whole = make_classifier(), [], []
    validation, awp = (X, Y), WeightPerturbation(gamma=0.05)
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1), ema=0.9, weight_perturbation=awp)

    class Look(Callback):
        def on_fit_start(self, model, history):
            whole.append(weights_of(classifier))

        def on_step_end(self, nb_steps, metrics):
            whole.append(weights_of(classifier))

        def on_epoch_end(self, record):
            whole.append(weights_of(classifier))  # the average

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(
            trainer.fit, X, Y, validation, batch_size=6, nb_epochs=10, callbacks=[Look()], verbose=False
        )
        while not training.done():
            taken.append(weights_of(classifier.snapshot()))
        training.result()
    whole.append(weights_of(classifier))
    assert len(set(taken)) > 2
    assert set(taken) <= set(whole)


@pytest.mark.slow(seconds=1)
def test_a_snapshot_comes_within_some_steps_though_the_training_wants_the_network_back_at_once():
    classifier, counts, waited = make_classifier(), [0], []

    class Count(Callback):
        def on_step_end(self, nb_steps, metrics):
            counts[0] = nb_steps

    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(trainer.fit, X, Y, batch_size=6, nb_epochs=50, callbacks=[Count()], verbose=False)
        while not training.done():
            before = counts[0]
            classifier.snapshot()
            waited.append(counts[0] - before)
        training.result()
    assert counts == [100]
    assert max(waited) < 20


def test_an_attack_may_take_a_snapshot_within_a_step():
    """The training holds the network then, in the same thread."""
    classifier, taken = make_classifier(), []

    def attack(network, x, y, *, clip_values, generator):
        taken.append(weights_of(classifier.snapshot()))
        return x

    trainer, before = OATTrainer(classifier, attack=attack), weights_of(classifier)
    options = {"batch_size": len(X), "nb_epochs": 1, "verbose": False}
    training = threading.Thread(target=trainer.fit, args=(X, Y), kwargs=options, daemon=True)
    training.start()
    training.join(60)
    assert taken == [before]  # of the one step, which has written nothing yet
    assert not training.is_alive()


def test_a_snapshot_stays_as_it_is_and_answers_as_the_network_did(classifier):
    expected = classifier.predict(X, lam=LAMS)
    taken = classifier.snapshot()
    OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(X, Y, nb_epochs=1, verbose=False)
    np.testing.assert_array_equal(taken.predict(X, lam=LAMS), expected)
    assert not np.array_equal(classifier.predict(X, lam=LAMS), expected)
    assert np.abs(taken.at(1.0).loss_gradient(X, ONE_HOT)).sum() > 0
    with pytest.raises(ValueError, match="must hold an optimizer"):
        OATTrainer(taken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ce"}, "loss must be a function of scores and labels, got 'ce'"),
        ({"loss": torch.nn.CrossEntropyLoss}, "loss must be a function of scores and labels"),
        ({"optimizer": "sgd"}, "optimizer must be one of torch, or None, got 'sgd'"),
        ({"clip_values": 1}, "clip_values must be two numbers"),
        ({"clip_values": (0, 1, 2)}, "clip_values must be two numbers"),
    ],
)
def test_parts_of_another_kind_are_refused_by_name(options, message):
    arguments = {"loss": torch.nn.CrossEntropyLoss(), "input_shape": (1, 6, 6), "nb_classes": 5, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        OATClassifier(to_conditional(Residual()), **arguments)


@pytest.mark.parametrize(
    "faulty", [{"width": []}, {"width": 0.3}, {"nb_classes": 1}, {"clip_values": 3}, {"clip_values": (1, 0)}, {"no": 1}]
)
def test_parameters_of_which_one_is_refused_are_all_left_as_they_were(classifier, faulty):
    before, parameters = snapshot(classifier), classifier.get_params()
    with pytest.raises((TypeError, ValueError)):
        classifier.set_params(lam=0.3, channels_first=False, **faulty)
    assert snapshot(classifier) == before
    assert classifier.channels_first
    assert all(value is parameters[name] for name, value in classifier.get_params().items() if name != "lam")
