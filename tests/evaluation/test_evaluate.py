import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, AutoAttack, OATClassifier, OATTrainer, OperatingPoint, to_conditional
from art_oat.attacks.autoattack import AutoAttackWarning
from art_oat.evaluation import RobustnessReport, evaluate
from tests.attacks.test_autoattack import UNRELIABLE, Stairs
from tests.conftest import make_classifier
from tests.evaluation.subjects import (
    Linear,
    Stopped,
    X,
    affine_classifier,
    answers,
    exact_radii,
    grouped,
    linear_data,
    plain_classifier,
    report_of,
    telling_eps,
    varied_classifier,
)
from tests.networks import Residual

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def varied():
    return varied_classifier()


# -- A known answer: no attack finds a sample broken that cannot be broken, and AutoAttack finds all that can. ---------


def compare(report: RobustnessReport, radii: torch.Tensor, *, is_exact: bool) -> None:
    can_be_robust = (radii > report.eps).numpy()
    assert report.clean == 1
    assert (report.is_robust | ~can_be_robust).all()
    assert 0 < can_be_robust.mean() <= report.robust < 1
    assert not is_exact or report.robust - can_be_robust.mean() <= 0.01


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        *(pytest.param("autoattack", norm, marks=SLOW) for norm in ("Linf", "L2", "L1")),
        pytest.param("autoattack-plus", "Linf", marks=SLOW),
        *itertools.product(["screen"], ["Linf", "L2", "L1"]),
        *itertools.product(["pgd-20", "pgd-5x3"], ["Linf", "L2"]),
    ],
)
def test_on_a_linear_network_no_figure_is_below_the_exact_one_and_that_of_autoattack_is_it(attack, norm):
    x, y = linear_data()
    radii = exact_radii(Linear(), x, y, norm)
    report = report_of(plain_classifier(), x.numpy(), y.numpy(), attack=attack, norm=norm, eps=telling_eps(radii))
    compare(report, radii, is_exact=attack.startswith("autoattack"))


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("screen", "L2"),
        ("art:FastGradientMethod", "Linf"),
        ("art:ProjectedGradientDescent", "L2"),
        ("torchattacks:PGD", "Linf"),
        ("torchattacks:PGDL2", "L2"),
    ],
)
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_attacks_of_libraries_are_no_better_than_the_exact_one_either(attack, norm, lam):
    if attack.startswith("torchattacks"):
        pytest.importorskip("torchattacks")
    classifier, (x, _) = affine_classifier(), linear_data(12)
    network = classifier.at(lam).as_module()
    y = network(x).argmax(dim=1)
    radii = exact_radii(network, x, y, norm)
    report = report_of(classifier, x.numpy(), y.numpy(), attack=attack, norm=norm, eps=telling_eps(radii), lam=lam)
    compare(report, radii, is_exact=False)


# -- What is attacked. ------------------------------------------------------------------------------------------------


def test_a_view_and_the_network_by_itself_are_attacked_as_the_classifier_at_that_point(varied):
    expected = report_of(varied, lam=0.3)
    view = report_of(varied.at(0.3), y=answers())
    plain = report_of(plain_classifier(varied.at(0.3).as_module(), 5), y=answers())
    assert expected.point == view.point == OperatingPoint(0.3, 1.0)
    assert plain.point is None
    assert 0 < expected.robust < expected.clean < 1
    for report in (view, plain):
        assert report.broken_by.tolist() == expected.broken_by.tolist()


@pytest.mark.parametrize("default", [None, 0.3])
def test_a_lam_is_asked_for_whatever_the_default_is(default):
    classifier = varied_classifier()
    if default is not None:
        classifier.lam = default
    with pytest.raises(ValueError, match=r"lam must be named, since robustness has no default, got None.*lam=1 is"):
        report_of(classifier, lam=None)
    with pytest.raises(ValueError, match=r"lam must be named.*width must be one of"):
        report_of(classifier, lam=None, width=0.5)


def test_the_only_lam_there_is_needs_no_name():
    model = to_conditional(Residual(), (1.0,))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    assert report_of(classifier, y=answers(), lam=None).point == OperatingPoint(1.0)


@pytest.mark.parametrize(
    ("options", "is_large"),
    [
        ({"eps": 8}, True),
        ({"eps": 0.5}, True),
        ({"eps": 8 / 255}, False),
        ({"eps": 128 / 255, "norm": "L2"}, False),
        ({"eps": 128, "norm": "L2"}, True),
        ({"eps": 12, "norm": "L1", "attack": "screen"}, False),  # half of 1 * 36 is 18
        ({"eps": 18, "norm": "L1", "attack": "screen"}, True),
        ({"eps": 0.1, "attack": PGD(8)}, True),
    ],
)
def test_a_radius_in_another_unit_is_refused_unless_it_is_meant(options, is_large):
    given = {"classifier": plain_classifier(nb_classes=5), "x": X[:2], "y": answers()[:2], "attack": "pgd-1", **options}
    if not is_large:
        report_of(**given)
        return
    with pytest.raises(ValueError, match=r"eps must be below .* half the range of x.* say allow_large_eps=True"):
        report_of(**given)
    if isinstance(given["attack"], str):
        assert report_of(**given, allow_large_eps=True).eps == options["eps"]


def test_a_radius_of_another_unit_is_doubted_once_where_it_was_written():
    x, y = linear_data(4)
    classifier = plain_classifier(Linear(span=255), clip_values=(0, 255))
    with pytest.warns(UserWarning, match=r"eps = 0.2 \(Linf\) is 0.2 of 255 levels.*0.2 in \[0, 1\] is 51") as caught:
        evaluate(classifier, (255 * x).numpy(), y.numpy(), **grouped(eps=0.2, attack="pgd-3"))
    assert [Path(warning.filename).name for warning in caught] == ["test_evaluate.py"]


class Odd(nn.Module):
    """Answers otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = Linear(), nn.Dropout(1.0)

    def forward(self, x):
        return self.linear(self.dropout(x))


def test_a_plain_network_is_attacked_in_evaluation_mode_and_left_as_it_was_also_where_an_attack_fails():
    network, (x, y) = Odd(), linear_data()
    linear, hooked = network.linear.eval(), []
    handle = linear.register_forward_hook(lambda *_: hooked.append(1))
    linear.weight.grad = torch.ones_like(linear.weight)
    linear.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    radii = exact_radii(Linear(), x, y, "Linf")
    eps = telling_eps(radii)

    def fail(network, x, y, *, clip_values=None, generator=None):
        raise Stopped

    data = plain_classifier(network), x.numpy(), y.numpy()
    report = report_of(*data, eps=eps, attack=AutoAttack(eps, parts=("apgd-t", "fab-t")))
    with pytest.raises(Stopped):
        report_of(*data, attack=fail)
    compare(report, radii, is_exact=True)
    assert (network.training, linear.training, network.dropout.training) == (True, False, True)
    assert [*linear._forward_hooks] == [handle.id]
    assert hooked
    assert (linear.weight.requires_grad, linear.bias.requires_grad) == (True, False)
    assert bool((linear.weight.grad == 1).all())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_preprocessing_of_a_plain_classifier_is_attacked_too():
    x, y = linear_data()
    radii = exact_radii(Linear(), x, y, "Linf")
    centered = plain_classifier(Linear(low=-0.5 / 0.2, span=1 / 0.2), preprocessing=(0.5, 0.2))
    report = report_of(centered, x.numpy(), y.numpy(), eps=telling_eps(radii), attack="screen")
    compare(report, radii, is_exact=False)  # (x - 0.5) / 0.2 is x again


def test_whole_numbers_are_attacked_in_their_units():
    x, network = (255 * linear_data()[0]).round(), Linear(low=0.0, span=255.0)
    y = network(x).argmax(dim=1).numpy()
    classifier = plain_classifier(network, clip_values=(0, 255))
    report = report_of(classifier, x.numpy().astype(np.uint8), y, eps=255 * 0.007, attack="pgd-20")
    same = report_of(plain_classifier(), (x / 255).numpy(), y, eps=0.007, attack="pgd-20")
    assert 0 < report.robust < 1
    assert report.broken_by.tolist() == same.broken_by.tolist()


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("pgd-2", "Linf"),
        ("pgd-2", "L2"),
        ("screen", "Linf"),
        ("screen", "L1"),
        ("art:ProjectedGradientDescent", "Linf"),
        ("torchattacks:PGD", "Linf"),
    ],
)
def test_inputs_normalized_in_float32_are_trained_on_and_attacked_where_the_range_is_computed_in_float64(attack, norm):
    """Black is (0 - mean) / std either way, and up to 1e-7 apart."""
    mean, std = 0.1307, 0.3081
    images = X.copy()
    images[:, :, 0], images[:, :, 1] = 0, 1
    x = (images - np.float32(mean)) / np.float32(std)
    bounds = ((0 - mean) / std, (1 - mean) / std)
    assert x.min() < np.float32(bounds[0])
    classifier = make_classifier(clip_values=bounds)
    y = classifier.predict(x).argmax(axis=1)
    OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(x, y, nb_epochs=1, verbose=False)
    assert len(report_of(classifier, x, y, attack=attack, norm=norm).broken_by) == len(x)


# -- What is said. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "message"), UNRELIABLE)
def test_what_autoattack_warns_of_is_issued_once_and_in_the_report(kind, message):
    network, (x, _) = kind(), linear_data()
    y = network(x).argmax(dim=1).numpy()
    with pytest.warns(AutoAttackWarning, match=message) as issued:
        report = report_of(plain_classifier(network), x.numpy(), y, attack="screen", eps=0.01, shard_size=4)
    assert len(issued) == 1
    assert [message in warning for warning in report.warnings] == [True]
    assert f"warning: {report.warnings[0]}" in str(report)


@pytest.mark.slow(seconds=1)
def test_samples_without_a_gradient_are_counted_over_all_shards():
    network, (x, _) = Stairs(), linear_data()
    y = network(x).argmax(dim=1).numpy()
    with pytest.warns(AutoAttackWarning):
        report = report_of(plain_classifier(network), x.numpy(), y, attack="screen", eps=1e-4, shard_size=3)
    assert report.robust == 1
    assert report.warnings[0].startswith(f"there are {len(x)} points with zero gradient")


def test_an_honest_network_gets_no_warning():
    x, y = linear_data()
    assert report_of(plain_classifier(), x.numpy(), y.numpy(), attack="screen", eps=0.01).warnings == ()


# -- What is refused. -------------------------------------------------------------------------------------------------

NO_DIALS = "lam and width must be None for a {}: it has no dials"
NAMES = ("x", "y", "shard_size", "nb_workers", "seed", "attack", "lam")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps must be a number above 0, got 0"),
        ({"eps": "8/255"}, "eps must be a number"),
        ({"norm": "L0"}, "norm must be one of"),
        ({"attack": "fgsm"}, "attack must be one of"),
        ({"attack": ["pgd-1", "pgd-2"]}, "attack must be one, got 2. TradeoffCurve.measure takes several"),
        ({"attack": {}}, "attack must name at least one"),
        ({"attack": "pgd-5", "norm": "L1"}, "norm must be 'Linf' or 'L2' for pgd-5, got 'L1'. For that, use"),
        ({"lam": 3}, "lam must lie in"),
        ({"width": 0.5}, "width must be one of"),
        ({"seed": -1}, "seed must be a whole number in .*, got -1"),
        ({"nb_robust": 5}, "nb_robust must be left out here"),
        ({"x": 2 * X}, "x must lie within clip_values"),
        ({"x": X[:0], "y": answers()[:0]}, "x must hold at least one sample"),
        ({"y": np.full(len(X), 9)}, "y must hold class indices"),
        (
            {"x": 2 * X, "y": np.full(24, 9), "shard_size": 0, "seed": -1, "attack": "fgsm", "lam": 3, "nb_workers": 0},
            ".*".join(f"{name} must" for name in NAMES),
        ),
        ({"classifier": plain_classifier(nb_classes=5), "lam": 0.3}, NO_DIALS.format("PyTorchClassifier")),
        ({"classifier": plain_classifier(nb_classes=5), "width": 1.0}, NO_DIALS.format("PyTorchClassifier")),
        ({"classifier": varied_classifier().at(1.0), "lam": 0.3}, NO_DIALS.format("PinnedClassifier")),
        (
            {"classifier": plain_classifier(nb_classes=5), "nb_workers": 2},
            "nb_workers must be 1 for a PyTorchClassifier",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_every_fault(varied, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        report_of(**{"classifier": varied, "y": answers(), **options})


def test_what_is_no_classifier_of_art_is_refused():
    for thing in (Linear(), "classifier", None):
        with pytest.raises(TypeError, match="classifier must be a PyTorchClassifier"):
            report_of(thing, y=answers())


def test_an_attack_that_leaves_its_ball_ends_the_evaluation(varied):
    def jump(network, x, y, *, clip_values=None, generator=None):
        return (x + 0.2).clamp(0, 1)

    with pytest.raises(RuntimeError, match=re.escape("must stay within eps = 0.1")):
        report_of(varied, attack=jump, eps=0.1)
