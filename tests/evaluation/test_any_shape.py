"""Whatever shape inputs have, attacks find in them what there is to find."""

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import AutoAttack as AutoAttackOfART
from art.attacks.evasion import FastGradientMethod, SquareAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_oat import (
    AutoAttack,
    OATClassifier,
    OATTrainer,
    OperatingPoint,
    TradeoffCurve,
    TransferMatrix,
    evaluate,
    to_conditional,
)
from art_oat.attacks import UnitImages, bind, distance, is_correct
from art_oat.classifier import PreprocessedNetwork
from tests.evaluation.subjects import NB_CLASSES, Linear, exact_radii, grouped, linear_data, telling_eps
from tests.networks import LAMBDAS, ChannelsLast

NORMS = {(36,): nn.BatchNorm1d(36), (2, 18): nn.BatchNorm1d(2), (2, 3, 2, 3): nn.BatchNorm3d(2)}
SHAPES = [*NORMS, (1, 2, 18)]


def attacked(attack, network, x, y, seed=0):
    return attack(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(seed))


def affine(shape, **options):
    """A conditional network of inputs of a shape that is affine at every point."""
    torch.manual_seed(0)
    model = to_conditional(nn.Sequential(NORMS[shape], nn.Flatten(), nn.Linear(36, NB_CLASSES)), LAMBDAS)
    model.network[0].film.output.weight.data.normal_(0, 0.3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return OATClassifier(
        model, nn.CrossEntropyLoss(), shape, NB_CLASSES, optimizer, clip_values=(0, 1), device_type="cpu", **options
    )


def answered(classifier, shape, lam=1.0):
    """Inputs in [0.3, 0.7], and what the classifier answers at a lam."""
    x = linear_data()[0].view(-1, *shape)
    return x, classifier.at(lam).as_module()(x).argmax(dim=1)


@pytest.mark.parametrize(
    ("shape", "parts", "norm"),
    [
        *(((36,), (part,), norm) for part in ("apgd-t", "fab-t") for norm in ("Linf", "L2", "L1")),
        *((shape, ("apgd-ce", "apgd-t"), "Linf") for shape in SHAPES),
    ],
)
def test_parts_of_autoattack_break_inputs_of_any_shape_where_the_margin_says(shape, parts, norm):
    """The margin over another class over the dual norm of the weights' difference is how far one must go."""
    network, (x, y) = Linear(), linear_data()
    x = x.view(-1, *shape)
    radii = exact_radii(network, x, y, norm)
    eps = telling_eps(radii)
    x_adv = attacked(AutoAttack(eps, norm, parts=parts), network, x, y)
    stands = is_correct(network, x_adv, y)
    assert x_adv.shape == x.shape
    assert distance(x, x_adv, norm).max() <= eps * (1 + 1e-4)
    assert stands[radii > eps].all()
    assert not stands[radii < eps * (0.9 if norm == "L1" else 1)].any()  # APGD takes L1 steps of some features only


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("shape", [*SHAPES, (13,)])
def test_square_finds_valid_examples_in_inputs_of_any_shape(shape, norm):
    count = int(np.prod(shape))
    network = nn.Sequential(nn.Flatten(), nn.Linear(count, NB_CLASSES))
    x = linear_data()[0].flatten(1)[:, :count].view(-1, *shape)
    y = network(x).argmax(dim=1)
    eps = 8 * float(exact_radii(network, x, y, norm).max())  # many a draw breaks a sample
    x_adv = attacked(AutoAttack(eps, norm, parts=("square",)), network, x, y)
    assert not is_correct(network, x_adv, y).any()
    assert distance(x, x_adv, norm).max() <= eps * (1 + 1e-4)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize(("part", "norm"), [("apgd-ce", "Linf"), ("apgd-ce", "L2"), ("square", "L2")])
def test_vectors_are_attacked_as_the_same_numbers_in_a_square_are(part, norm):
    network, (x, y) = Linear(), linear_data()
    eps = float(exact_radii(network, x, y, norm).max()) * (4 if part == "square" else 1)
    attack = AutoAttack(eps, norm, parts=(part,))
    as_images, as_vectors = (attacked(attack, network, it, y) for it in (x, x.flatten(1)))
    assert torch.equal(as_images.flatten(1), as_vectors)
    assert not torch.equal(as_images, x)


def test_a_single_feature_is_attacked_up_to_its_radius():
    network = nn.Linear(1, NB_CLASSES)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[4.0], [-4.0], [0.0], [0.0]]))
        network.bias.copy_(torch.tensor([-2.0, 2.0, -9.0, -9.0]))  # class 0 above 1/2, class 1 below
    x, y = torch.tensor([[0.6], [0.7], [0.4], [0.3]]), torch.tensor([0, 0, 1, 1])
    x_adv = attacked(AutoAttack(0.15, parts=("apgd-ce",)), network, x, y)
    assert is_correct(network, x_adv, y).tolist() == [False, True, False, True]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("shape", NORMS)
def test_a_tradeoff_curve_of_inputs_of_any_shape_counts_what_the_margins_say(shape):
    classifier = affine(shape)
    x, y = answered(classifier, shape)
    points = [OperatingPoint(lam) for lam in (0.0, 1.0)]
    eps = telling_eps(exact_radii(classifier.at(1.0).as_module(), x, y, "Linf"))
    curve = TradeoffCurve.measure(classifier, x, y, **grouped(eps=eps, attack=("screen", "pgd-20x3"), lambdas=[0, 1]))
    for point, measured in zip(points, curve.points, strict=True):
        network = classifier.at(*point).as_module()
        stands = is_correct(network, x, y) & (exact_radii(network, x, y, "Linf") > eps)
        assert measured.robust == measured.by_attack["screen"] == pytest.approx(float(stands.float().mean()))
        assert measured.macs == 36 * NB_CLASSES
    part = TradeoffCurve.measure(classifier, x, y, **grouped(eps=eps, attack="pgd-2", lambdas=[1], nb_robust=4, seed=3))
    assert part.points[0].nb_robust == 4


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("shape", NORMS)
def test_a_transfer_matrix_of_inputs_of_any_shape_has_what_the_margins_say_on_its_diagonal(shape):
    classifier = affine(shape)
    x, y = answered(classifier, shape)
    network = classifier.at(1.0).as_module()
    radii = exact_radii(network, x, y, "Linf")
    eps = telling_eps(radii)
    attack = AutoAttack(eps, parts=("apgd-t",))
    matrix = TransferMatrix.measure(classifier, x, y, **grouped(eps=eps, attack=attack, lambdas=[0, 1]))
    assert matrix.robust[1, 1] == pytest.approx(float((radii > eps).float().mean()))


@pytest.mark.parametrize("shape", NORMS)
@pytest.mark.parametrize(
    "name",
    [
        "torchattacks:PGD",
        "torchattacks:APGD",
        "torchattacks:DIFGSM",
        "art:ProjectedGradientDescent",
        "art:FastGradientMethod",
    ],
)
def test_attacks_by_name_evaluate_inputs_of_any_shape(name, shape):
    classifier = affine(shape)
    x, y = answered(classifier, shape)
    eps = 2 * float(exact_radii(classifier.at(1.0).as_module(), x, y, "Linf").max())
    report = evaluate(classifier, x, y, **grouped(eps=eps, attack=name, lam=1.0))
    assert report.robust < 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda network: torchattacks.Square(network, eps=0.3, n_queries=20),
        lambda network: torchattacks.Square(network, norm="L2", eps=1.0, n_queries=20),
        lambda network: torchattacks.OnePixel(network, steps=2, popsize=4),
        lambda network: torchattacks.Pixle(network, restarts=1, max_iterations=2),
    ],
)
@pytest.mark.parametrize("shape", NORMS)
def test_attacks_of_torchattacks_that_cut_patches_out_of_images_take_any_shape(make, shape):
    classifier = affine(shape)
    x, y = answered(classifier, shape)
    x_adv = bind(make(classifier.at().as_module()), classifier)(x, y, torch.ones(len(x)))
    assert x_adv.shape == x.shape
    assert not torch.equal(x_adv, x)


def with_square_of_art(classifier):
    return AutoAttackOfART(classifier, eps=0.1, attacks=[FastGradientMethod(classifier), SquareAttack(classifier)])


def with_filter_of_torchattacks(classifier):
    network = classifier.at().as_module()
    return torchattacks.MultiAttack([torchattacks.FGSM(network), torchattacks.TIFGSM(network)])


@pytest.mark.parametrize(
    "attack", ["art:SquareAttack", "torchattacks:TIFGSM", with_square_of_art, with_filter_of_torchattacks]
)
def test_an_attack_that_cannot_take_the_inputs_is_refused_before_the_first_attack(attack, monkeypatch):
    """That of ART wants images, that of torchattacks three channels; others hold them back for what stands."""
    classifier = affine((36,))
    x, y = answered(classifier, (36,))
    monkeypatch.setattr(AutoAttack, "__call__", _must_not_be_called)
    attack = attack if isinstance(attack, str) else attack(classifier)
    with pytest.raises(ValueError, match=r"attack must take inputs of shape \(36,\), on one of which \w+ fails"):
        TradeoffCurve.measure(classifier, x, y, **grouped(eps=0.1, attack=["screen", attack]))


def _must_not_be_called(*_, **__):
    raise AssertionError("nothing may be attacked")


def test_a_trainer_refuses_an_attack_that_cannot_take_the_inputs():
    classifier = affine((36,))
    attack = torchattacks.TIFGSM(classifier.at().as_module())
    with pytest.raises(ValueError, match=r"^attack must take inputs of shape \(36,\)"):
        OATTrainer(classifier, attack=attack)
    with pytest.raises(ValueError, match=r"^fallback: attack must take inputs of shape \(36,\)"):
        OATTrainer(classifier, fallback=attack)
    with pytest.raises(ValueError, match=r"attack must take inputs of shape \(36,\)"):
        TransferMatrix.measure(classifier, *answered(classifier, (36,)), eps=0.1, attack=attack)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_squares_are_cut_out_of_rows_and_columns_where_channels_come_last(norm):
    network, (x, y) = Linear(), linear_data()
    x = x.view(-1, 4, 3, 3)
    attack = AutoAttack(4 * float(exact_radii(network, x, y, norm).max()), norm, parts=("square",))
    last = PreprocessedNetwork(ChannelsLast(network), [], channels_first=False)
    x_adv = attacked(attack, last, x.permute(0, 2, 3, 1), y)
    assert torch.equal(x_adv.permute(0, 3, 1, 2), attacked(attack, network, x, y))


def test_a_classifier_with_channels_last_is_attacked_as_its_twin_with_channels_first():
    torch.manual_seed(0)
    x, network = torch.rand(6, 2, 6, 6), nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, NB_CLASSES))
    found = []
    for is_first in (True, False):
        inputs, shape = (x, (2, 6, 6)) if is_first else (x.permute(0, 2, 3, 1), (6, 6, 2))
        model = to_conditional(network if is_first else ChannelsLast(network), LAMBDAS)
        y = model.pinned(1.0)(inputs).argmax(dim=1)
        classifier = OATClassifier(
            model, nn.CrossEntropyLoss(), shape, NB_CLASSES, clip_values=(0, 1), channels_first=is_first
        )
        attack = {"square": AutoAttack(0.3, parts=("square",))}
        report = evaluate(classifier, inputs, y, **grouped(eps=0.3, attack=attack, lam=1.0))
        square = torchattacks.Square(classifier.at().as_module(), eps=0.3, n_queries=5)
        x_adv = bind(square, classifier)(inputs, y, torch.ones(6), torch.Generator().manual_seed(0))
        found.append((report.broken_by.tolist(), x_adv if is_first else x_adv.permute(0, 3, 1, 2)))
    assert found[0][0] == found[1][0]
    assert "square" in found[0][0]
    assert torch.equal(found[0][1], found[1][1])


def test_images_of_a_mixture_have_their_channels_where_those_of_its_networks_are():
    classifier = affine((36,), channels_first=False)
    x, y = answered(classifier, (36,))
    seen = []
    original = UnitImages.__init__

    def noted(self, *args, channels_first=True, **options):
        seen.append(channels_first)
        original(self, *args, channels_first=channels_first, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnitImages, "__init__", noted)
        attack = AutoAttack(0.1, parts=("apgd-ce",))
        TransferMatrix.measure(classifier, x, y, **grouped(eps=0.1, attack=attack, lambdas=[0, 1]))
    assert seen == [False, False, False]


@pytest.mark.parametrize("channels_first", [True, False])
def test_a_plain_classifier_of_series_is_attacked_in_as_many_dimensions(channels_first):
    network, (x, y) = Linear(), linear_data()
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (4, 9), NB_CLASSES, None, channels_first=channels_first, clip_values=(0, 1)
    )
    x = x.view(-1, 4, 9)
    radii = exact_radii(network, x, y, "L2")
    eps = telling_eps(radii)
    report = evaluate(classifier, x.numpy(), y.numpy(), **grouped(eps=eps, norm="L2", attack="screen"))
    assert report.is_robust.tolist() == (radii > eps).tolist()
