import enum
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from art_oat import (
    NFGSM,
    PGD,
    AutoAttack,
    Method,
    OATClassifier,
    OATTrainer,
    OneCycle,
    OperatingPoint,
    RandomCropFlip,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    parameter_groups,
    to_conditional,
)
from art_oat.checks import checked_seed, refuse
from art_oat.data import load
from art_oat.data.bundled import digits
from art_oat.evaluation import EvaluationOptions
from art_oat.evaluation.cost import measure_costs
from art_oat.experiment.recipe import Recipe
from art_oat.layers.encoding import Encoding
from art_oat.models import SmallCNN
from art_oat.numbers import (
    KindFault,
    count_faults,
    is_finite_number,
    number_faults,
    plain,
    plain_fields,
    seed_faults,
    shown,
)
from art_oat.training import EarlyStopping, recalibrate
from art_oat.transfer import LinearProbe, adapt, replace_head


class Level(enum.IntEnum):
    THREE = 3


THREES = [
    *(kind(3) for kind in (int, np.int8, np.uint64, np.int64)),
    *(np.array(3, dtype) for dtype in (np.int32, np.uint8)),
    *(torch.tensor(3, dtype=dtype) for dtype in (torch.int64, torch.uint8)),
    Level.THREE,
    Fraction(3),
]
REALS = [
    *(kind(0.5) for kind in (float, np.float16, np.float32, np.float64, np.longdouble)),
    *(np.array(0.5, dtype) for dtype in (np.float16, np.float64)),
    *(torch.tensor(0.5, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)),
    torch.tensor(0.5, requires_grad=True),
    Fraction(1, 2),
]
NO_NUMBERS: list[Any] = [
    *(None, "3", b"3", 3j, Decimal(3), [3], (3,), {3}, object(), int),
    *(np.array([3]), torch.tensor([3]), np.array("3"), np.array(3j), np.array(3, dtype=object)),
    *(np.timedelta64(3, "s"), np.datetime64("2026-01-01"), np.ma.masked, np.ma.array(3)),
    *(torch.tensor(3, device="meta"), torch.tensor(3j)),
]


@pytest.mark.parametrize("value", THREES, ids=repr)
def test_a_whole_number_of_any_kind_becomes_pythons_own(value):
    number = plain(value) if not isinstance(value, Fraction) else int(plain(value))
    assert (type(number), number) == (int, 3)


@pytest.mark.parametrize("value", REALS, ids=repr)
def test_a_real_number_of_any_kind_becomes_pythons_own(value):
    assert (type(plain(value)), plain(value)) == (float, 0.5)
    assert is_finite_number(value)


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), torch.tensor(True)], ids=repr)
def test_a_truth_value_becomes_pythons_own_and_is_no_number(value):
    assert plain(value) is True
    assert not is_finite_number(value)
    assert isinstance(*count_faults({"n": value}), KindFault)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_stays_as_it_is_and_is_a_fault_of_kind(value):
    assert plain(value) is value
    for faults in (count_faults({"n": value}), seed_faults(value, "n"), number_faults({"n": value}, "be such", bool)):
        (fault,) = faults
        assert isinstance(fault, KindFault)
        assert fault.startswith("n must be ")


@pytest.mark.parametrize("value", [10**400, -(10**5000), Fraction(10**400), float("nan"), np.float32("inf")], ids=shown)
def test_a_number_that_no_float_holds_is_a_fault_of_value(value):
    (fault,) = number_faults({"eps": value}, "be a number above 0", lambda it: it > 0)
    assert not isinstance(fault, KindFault)
    assert len(fault) < 150


@pytest.mark.parametrize("value", THREES[:-1], ids=repr)
def test_counts_and_seeds_of_any_kind_are_taken(value):
    assert count_faults({"n": value}, least=3) == seed_faults(value) == []
    assert count_faults({"n": value}, least=4) == [f"n must be a whole number, at least 4, got {value!r}."]
    assert (type(checked_seed(value)), checked_seed(value)) == (int, 3)


@pytest.mark.parametrize(
    ("seed", "kind"),
    [*((it, ValueError) for it in (-1, 2**32, 10**5000, np.int64(-1))), *((it, TypeError) for it in (2.5, 2.0, True))],
    ids=shown,
)
def test_other_seeds_are_refused(seed, kind):
    with pytest.raises(kind, match=r"seed must be a whole number in \[0, 2\*\*32\), got "):
        checked_seed(seed)


def test_faults_of_kind_alone_are_a_type_error_and_others_come_with_them():
    kinds, values = count_faults({"a": 2.5, "b": "3"}), count_faults({"c": 0})
    with pytest.raises(TypeError, match=r"^a must .* b must [^c]*$"):
        refuse(kinds)
    with pytest.raises(ValueError, match=r"^a must .* b must .* c must "):
        refuse(kinds + values)


def test_the_fields_of_a_frozen_dataclass_become_pythons_own():
    @dataclass(frozen=True)
    class Options:
        count: int
        share: float
        name: str

        def __post_init__(self) -> None:
            plain_fields(self)

    options = Options(np.int64(3), torch.tensor(0.5), "x")
    assert [type(it) for it in (options.count, options.share, options.name)] == [int, float, str]


def test_a_value_is_shown_in_one_short_line():
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (np.zeros((20, 20)), 10**5000, "x" * 1000, Broken()):
        text = shown(value)
        assert len(text) <= 84
        assert "\n" not in text


# every entry that takes a count, a seed or another number

NETWORK = SmallCNN(channels=(4,))
IMAGES = torch.zeros(2, 1, 8, 8)
MODEL = to_conditional(NETWORK, (0.0, 0.5, 1.0), input_shape=(1, 8, 8))


def classifier() -> OATClassifier:
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    return OATClassifier(MODEL, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))


def options_of(**given: Any) -> EvaluationOptions:
    options = EvaluationOptions(**given)
    refuse(options.faults())
    return options


COUNTS = {
    "PGD.nb_steps": lambda it: PGD(0.1, nb_steps=it),
    "adapt.nb_classes": lambda it: adapt(NETWORK, it, input_shape=(1, 8, 8)).head.out_features,
    "adapt.seed": lambda it: adapt(NETWORK, 3, input_shape=(1, 8, 8), seed=it).head.weight.tolist(),
    "cost.batch_size": lambda it: measure_costs({1.0: NETWORK}, (1, 8, 8), batch_size=it, seconds=1e-9)[1.0].macs,
    "data.seed": lambda it: digits(it).train.x.tolist(),
    "data.nb_test": lambda it: load("digits", nb_test=it).test.x.tolist(),
    "Encoding.code_dim": lambda it: Encoding((0.0, 1.0), "dct", it).table.tolist(),
    "Encoding.seed": lambda it: Encoding((0.0, 1.0), "random-orthogonal", 4, it).table.tolist(),
    "EvaluationOptions.latency_batch_size": lambda it: options_of(latency_batch_size=it),
    "EvaluationOptions.nb_robust": lambda it: options_of(nb_robust=it),
    "EvaluationOptions.nb_workers": lambda it: options_of(nb_workers=it),
    "EvaluationOptions.seed": lambda it: options_of(seed=it),
    "EvaluationOptions.shard_size": lambda it: options_of(shard_size=it),
    "EarlyStopping.patience": lambda it: EarlyStopping(it).patience,
    "OATTrainer.seed": lambda it: OATTrainer(classifier(), PGD(0.1), seed=it).seed,
    "OATClassifier.nb_classes": lambda it: (
        OATClassifier(adapt(MODEL, 3), torch.nn.CrossEntropyLoss(), (1, 8, 8), it).nb_classes
    ),
    "predict.batch_size": lambda it: classifier().predict(IMAGES, it).tolist(),
    "RandomCropFlip.padding": RandomCropFlip,
    "recalibrate.seed": lambda it: recalibrate(classifier(), [IMAGES], seed=it),
    "Recipe.batch_size": lambda it: Recipe(data="digits", batch_size=it),
    "Method.accumulation_steps": lambda it: Method(accumulation_steps=it),
    "Recipe.nb_epochs": lambda it: Recipe(data="digits", nb_epochs=it),
    "Recipe.nb_train": lambda it: Recipe(data="digits", nb_train=it),
    "Recipe.seed": lambda it: Recipe(data="digits", seed=it),
    "replace_head.seed": lambda it: replace_head(NETWORK, 2, input_shape=(1, 8, 8), seed=it).head.weight.tolist(),
    "SmallCNN.in_channels": lambda it: SmallCNN(in_channels=it).features[0].in_channels,
    "to_conditional.seed": lambda it: (
        to_conditional(NETWORK, seed=it, film="two-layer").state_dict()["encoding.table"].tolist()
    ),
    "WeightPerturbation.warmup_epochs": lambda it: WeightPerturbation(0.1, it),
}
NUMBERS = {
    "AutoAttack.eps": AutoAttack,
    "Method.clean_share": lambda it: Method(clean_share=it),
    "Method.clip_grad_norm": lambda it: Method(clip_grad_norm=it),
    "Method.ema": lambda it: Method(ema=it),
    "Method.eps": lambda it: Method(eps=it),
    "Method.eps_step": lambda it: Method(eps_step=it),
    "Method.weight_perturbation": lambda it: Method(weight_perturbation=it).perturbation,
    "NFGSM.noise": lambda it: NFGSM(0.1, noise=it),
    "OneCycle.peak_at": OneCycle,
    "OperatingPoint.lam": OperatingPoint,
    "OperatingPoint.width": lambda it: OperatingPoint(0.5, it),
    "parameter_groups.weight_decay": lambda it: parameter_groups(NETWORK, it)[0]["weight_decay"],
    "PGD.eps": PGD,
    "PGD.eps_step": lambda it: PGD(0.1, it),
    "LinearProbe.weight_decay": lambda it: LinearProbe(NETWORK, it, input_shape=(1, 8, 8)).weight_decay,
    "predict.lam": lambda it: classifier().predict(IMAGES, lam=it).tolist(),
    "Recipe.learning_rate": lambda it: Recipe(data="digits", learning_rate=it),
    "Recipe.label_smoothing": lambda it: Recipe(data="digits", label_smoothing=it),
    "TRADESLoss.beta": TRADESLoss,
    "StratifiedSampling.weights": lambda it: StratifiedSampling({1.0: it}),
    "to_conditional.lambdas": lambda it: to_conditional(NETWORK, (0.0, it)).lambdas,
    "to_conditional.widths": lambda it: to_conditional(NETWORK, widths=(it, 1.0)).widths,
}


@pytest.mark.parametrize("entry", COUNTS)
def test_every_count_is_used_as_pythons_own_whatever_kind_it_is_of_or_refused_by_name(entry):
    call, name = COUNTS[entry], entry.partition(".")[2]
    for value in (np.int64(3), np.array(3), torch.tensor(3)):
        assert call(value) == call(3)
    for value in (2.5, True, "3", 3j, [3], torch.tensor([3])):
        with pytest.raises((TypeError, ValueError), match=rf"\b{name} must be a whole number"):
            call(value)
    for value in (-1, np.int64(-1), 10**400):
        with pytest.raises(ValueError, match=rf"\b{name} must be a whole number"):
            call(value)


@pytest.mark.parametrize("entry", NUMBERS)
def test_every_number_is_used_as_pythons_own_whatever_kind_it_is_of_or_refused_by_name(entry):
    call, name = NUMBERS[entry], entry.partition(".")[2].replace("weight_perturbation", "(weight_perturbation|gamma)")
    for value in (np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)):
        assert call(value) == call(0.5)
    for value in (True, np.True_, "0.5", 0.5j, Decimal("0.5"), -1, float("nan"), float("inf"), 10**400):
        with pytest.raises((TypeError, ValueError), match=rf"\b{name} must "):
            call(value)
