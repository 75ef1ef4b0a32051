import contextlib
import copy
import math
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat import OperatingPoint, fold, to_conditional
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, NETWORKS, WIDTHS, Residual, images, shaken


@pytest.mark.parametrize("make", NETWORKS)
def test_a_batch_that_mixes_lams_equals_the_batches_of_each_lam(make):
    model, x = shaken(make()), images()
    lam = torch.tensor([1.0, 0.0, 0.3, 0.0, 0.15, 1.0, 0.1, 0.7])
    expected = torch.stack([model(x[i : i + 1], lam=float(lam[i]))[0] for i in range(8)])
    torch.testing.assert_close(model(x, lam.double()), expected)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_the_default_point_answers_where_none_is_named_and_its_width_where_a_lam_alone_is(width):
    model, x = shaken(Residual(), widths=WIDTHS), images()
    assert model.default_point == OperatingPoint(0.0, 1.0)
    model.default_point = OperatingPoint(0.3, width)
    expected = model(x, 0.3, width)
    for answer in (model(x), model.pinned()(x), fold(model)(x), model(x, torch.full((8,), 0.3))):
        torch.testing.assert_close(answer, expected)
    model.default_point = OperatingPoint(0, width)
    for answer in (model(x, 0.3), model.pinned(0.3)(x), fold(model, 0.3)(x)):
        torch.testing.assert_close(answer, expected)


def test_the_default_is_the_smallest_lam():
    assert to_conditional(Residual(), (0.2, 1)).default_point == OperatingPoint(0.2)


def test_inputs_are_cast_to_the_dtype_of_the_model(model):
    x = images()
    torch.testing.assert_close(model(x.float(), lam=0.1), model(x, lam=0.1), rtol=1e-5, atol=1e-6)
    assert model(x.float(), lam=0.1).dtype == torch.float64


@pytest.mark.parametrize("lam", [-0.1, 1.61, math.nan])
def test_a_lam_below_0_or_far_beyond_1_is_refused(model, lam):
    with pytest.raises(ValueError, match=r"lam must lie in \[0"):
        model(images(), lam=lam)
    with pytest.raises(ValueError, match=r"lam must lie in \[0"):
        model(images(), lam=torch.full((8,), lam))


def test_a_lam_outside_the_trained_range_is_refused():
    model = to_conditional(Residual(), (0.1, 0.5))
    with pytest.raises(ValueError, match=r"lam must lie in \[0.1, 0.5\].*got 0\."):
        model(images(), lam=0)
    with pytest.raises(ValueError, match=r"lam must lie in \[0.1, 0.5\].*got 1\."):
        model.pinned(OperatingPoint(1.0))


@pytest.mark.parametrize(("lambdas", "farthest"), [(LAMBDAS, 1.6), ((0.0, 0.9, 1.0), 1.1), ((0.5, 1.0), 1.5)])
def test_the_dial_goes_beyond_1_as_far_as_from_the_last_lam_but_one_to_1(lambdas, farthest):
    assert to_conditional(Residual(), lambdas).farthest == pytest.approx(farthest)


@pytest.mark.parametrize(
    ("lambdas", "options"),
    [
        ((0.0, 1.0), {}),
        ((1.0,), {}),
        ((0.0, 0.5), {}),
        ((0.0, 0.5, 1.0), {"film_on": ()}),
        ((0.0, 0.5, 1.0), {"film": "two-layer"}),
    ],
)
def test_without_two_lams_above_0_of_which_one_is_1_or_linear_film_the_dial_ends_at_the_last(lambdas, options):
    model = to_conditional(Residual(), lambdas, **options)
    assert model.farthest == lambdas[-1]
    with pytest.raises(ValueError, match=r"lam must lie in .*got 1.1"):
        model.pinned(1.1)


@pytest.mark.parametrize("make", NETWORKS)
def test_beyond_1_every_form_of_a_network_answers_alike(make):
    model, x = shaken(make()), images()
    expected = model(x, lam=1.4)
    torch.testing.assert_close(model.pinned(1.4)(x), expected)
    torch.testing.assert_close(fold(model, 1.4)(x), expected)
    lams = torch.full((len(x),), 1.4, dtype=torch.float64)
    torch.testing.assert_close(model(x, lams), expected)


def test_a_lam_rounded_to_float32_is_the_trained_one():
    model = to_conditional(Residual().double(), (0.0, 0.3))
    rounded = float(torch.tensor(0.3, dtype=torch.float32))
    assert model.pinned(rounded) is model.pinned(0.3)
    x = images()
    torch.testing.assert_close(model(x, torch.full((8,), 0.3, dtype=torch.float32)), model(x, lam=0.3), rtol=0, atol=0)


@pytest.mark.parametrize("width", [0.6, 0.25, 0.5001])
def test_a_width_between_the_trained_ones_is_refused_wherever_one_is_named(width):
    model = shaken(Residual(), widths=WIDTHS)
    message = rf"width must be one of \(0.5, 0.75, 1.0\), got {width}. Widths are fixed when the network is converted"
    for call in (
        lambda: model(images(), lam=0.1, width=width),
        lambda: model(images(), torch.zeros(8), width),
        lambda: model.pinned(OperatingPoint(0.1, width)),
        lambda: model.live_network(width),
        lambda: fold(model, OperatingPoint(0.1, width)),
        lambda: setattr(model, "default_point", OperatingPoint(0.1, width)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_width_rounded_to_float32_is_the_trained_one():
    model = shaken(Residual(), widths=(0.3, 1.0))
    rounded = float(torch.tensor(0.3, dtype=torch.float32))
    assert rounded != 0.3
    assert model.point(0.1, rounded) == OperatingPoint(0.1, 0.3)
    assert torch.equal(model(images(), 0.1, rounded), model(images(), 0.1, 0.3))


@pytest.mark.parametrize("width", ["0.5", True, (0.5,), torch.tensor([0.5, 1.0])])
def test_a_width_that_is_no_number_is_refused(width):
    model = shaken(Residual(), widths=WIDTHS)
    with pytest.raises(TypeError, match="width must be one number"):
        model(images(), 0.1, width)


@pytest.mark.parametrize("shape", [(7,), (8, 1)])
def test_lams_that_are_not_one_per_sample_are_refused(model, shape):
    with pytest.raises(ValueError, match="lam must be one number, or hold 8"):
        model(images(), lam=torch.zeros(shape))


def test_a_lam_that_is_no_number_is_refused(model):
    with pytest.raises(TypeError, match="lam must be one number, got str"):
        model(images(), lam="robust")


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("options", [{}, {"widths": WIDTHS}, {"widths": WIDTHS, "heads": "per-width"}])
def test_a_copy_answers_alike_at_every_width_and_stands_alone(options, make_copy):
    model = shaken(Residual(), **options)
    points = [OperatingPoint(0.3, width) for width in model.widths]
    before = [model.pinned(point)(images()) for point in points]
    twin = make_copy(model)
    assert twin.widths == model.widths
    for point in points:
        torch.testing.assert_close(twin(images(), *point), model(images(), *point), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    for point, answer in zip(points, before, strict=True):
        torch.testing.assert_close(twin.pinned(point)(images()), twin(images(), *point))
        assert not torch.allclose(twin.pinned(point)(images()), answer)
        assert torch.equal(model.pinned(point)(images()), answer)


def test_its_lams_are_those_it_was_converted_for(model):
    assert model.lambdas == LAMBDAS


def test_it_says_what_the_dial_costs_in_parameters():
    network = Residual()
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    nb_plain = sum(parameter.numel() for parameter in network.parameters())
    nb_added = sum((2 + 2 * len(LAMBDAS)) * norm.num_features for norm in norms)  # another side, and an affine per lam
    model = to_conditional(network, LAMBDAS)
    assert model.overhead == pytest.approx((nb_plain + nb_added) / nb_plain)
    assert f"parameters={nb_plain + nb_added} ({model.overhead:.2f} times the plain network's)" in repr(model)
    assert copy.deepcopy(model).overhead == model.overhead


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts at a chosen moment need POSIX")
def test_an_interrupt_at_whatever_moment_leaves_nothing_held():
    """Else a training that Ctrl+C ends would wait for itself when it cleans up."""

    def interrupt(*_):
        raise KeyboardInterrupt

    model, before = make_classifier().model, signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(200):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 2e-4 + number * 1e-6)
                while True:
                    with model.writing:
                        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.writing.acquire, timeout=1).result()
