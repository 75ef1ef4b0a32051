"""The probe is the logistic regression of features that are computed once."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import to_conditional
from art_oat.transfer import LinearProbe, adapt
from tests.networks import MobileSqueezeExcite, Residual, conv, images, labels, shaken

NB_CLASSES = 3
X, Y = images(60, torch.float32, seed=5).numpy(), labels(60, NB_CLASSES).numpy()
X_VALIDATION, Y_VALIDATION = images(30, torch.float32, seed=6).numpy(), labels(30, NB_CLASSES).numpy()


def network(seed: int = 0, dtype: torch.dtype = torch.float64, *, has_bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    result = adapt(Residual().to(dtype), NB_CLASSES, protocol="fixed-feature", seed=seed)
    if not has_bias:
        result.head.bias = None
    return result


def centered(scores: np.ndarray) -> np.ndarray:
    """Scores up to what softmax does not see."""
    return scores - scores.mean(axis=1, keepdims=True)


def scores_of(trained: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return trained.eval()(torch.from_numpy(x).to(next(trained.parameters()))).double().numpy()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("weight_decay", [1e-4, 1e-2, 1.0])
def test_it_is_the_logistic_regression_of_scikit_learn(weight_decay, has_bias):
    trained = network(has_bias=has_bias)
    probe = LinearProbe(trained, weight_decay).fit(X, Y)
    features = probe.features(X)
    c = 1 / (weight_decay * features.var(axis=0).mean() * len(Y))
    theirs = LogisticRegression(C=c, fit_intercept=has_bias, tol=1e-10, max_iter=100_000).fit(features, Y)
    # both stop where the slope is below 1e-6, which the curvature, weight_decay, divides
    tolerance = max(1e-4, 1e-6 / weight_decay)
    expected = centered(theirs.decision_function(features))
    np.testing.assert_allclose(centered(scores_of(trained, X)), expected, atol=tolerance)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_objective_is_flat_where_it_ends_and_is_the_one_that_is_promised(has_bias):
    trained, decay = network(has_bias=has_bias), 0.03
    probe = LinearProbe(trained, decay).fit(X, Y)
    features, head = torch.from_numpy(probe.features(X)), trained.head
    weight = head.weight.detach().requires_grad_()
    bias = head.bias.detach().requires_grad_() if has_bias else torch.zeros(NB_CLASSES, dtype=torch.float64)
    penalty = decay * features.var(dim=0, correction=0).mean() / 2 * weight.square().sum()
    value = F.cross_entropy(features @ weight.T + bias, torch.from_numpy(Y)) + penalty
    gradients = torch.autograd.grad(value, [weight, bias] if has_bias else [weight])
    assert max(float(it.abs().max()) for it in gradients) < 1e-6 * float(1 + features.abs().max())
    assert probe.objective == pytest.approx(value.item(), abs=1e-12)


class Between(nn.Module):
    """A network that changes what its head gets."""

    def __init__(self, change: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.inner, self.change = network(dtype=dtype), change
        self.head, self.inner.head = self.inner.head, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.change(self.inner(x)))


@pytest.mark.parametrize("make", [lambda: network(seed=1), lambda: Between(lambda x: 1e-3 * x)])
def test_where_the_head_starts_and_the_scale_of_the_features_do_not_matter(make):
    answers = [centered(scores_of(LinearProbe(it, 1e-2).fit(X, Y).network, X)) for it in (network(), make())]
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_nothing_but_the_head_changes_by_one_bit():
    trained = network(dtype=torch.float32).train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    generator, modes = torch.get_rng_state(), [it.training for it in trained.modules()]
    LinearProbe(trained).fit(X, Y)
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert torch.equal(torch.get_rng_state(), generator)
    assert [it.training for it in trained.modules()] == modes
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_the_data_go_through_the_network_once_whatever_is_tried():
    trained, calls = network(), []
    probe = LinearProbe(trained, (1e-3, 1e-2, 1e-1))
    trained.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    probe.fit(X, Y, (X_VALIDATION, Y_VALIDATION), batch_size=25)
    assert calls == [25, 25, 10, 25, 5]


@pytest.mark.slow(seconds=1)
def test_validation_data_choose_the_weight_decay():
    decays = (1e-4, 1e-2, 1.0, 100.0)
    alone = {}
    for decay in decays:
        trained = LinearProbe(network(), decay).fit(X, Y).network
        alone[decay] = float((scores_of(trained, X_VALIDATION).argmax(axis=1) == Y_VALIDATION).mean())
    assert len(set(alone.values())) > 1
    probe = LinearProbe(network(), decays).fit(X, Y, (X_VALIDATION, Y_VALIDATION))
    assert probe.accuracy == max(alone.values())
    assert probe.weight_decay == max(decay for decay in decays if alone[decay] == probe.accuracy)


def test_features_are_what_the_head_gets_in_evaluation():
    trained = adapt(MobileSqueezeExcite(), NB_CLASSES, input_shape=(1, 6, 6)).train()
    probe = LinearProbe(trained, input_shape=(1, 6, 6))
    features = torch.from_numpy(probe.features(X, batch_size=7)).float()
    with torch.no_grad():
        torch.testing.assert_close(trained.head(features), trained.eval()(torch.from_numpy(X)))


def test_features_that_tell_nothing_leave_the_shares_of_the_classes():
    y = np.array([0] * 10 + [1] * 20 + [2] * 30)
    trained = LinearProbe(Between(torch.ones_like), head="head").fit(X, y).network
    shares = torch.from_numpy(scores_of(trained, X[:1])).softmax(dim=1)
    torch.testing.assert_close(shares, torch.tensor([[1 / 6, 1 / 3, 1 / 2]]).double(), atol=1e-5, rtol=0)


def test_what_has_not_converged_is_said(monkeypatch):
    monkeypatch.setattr("art_oat.transfer.linear_probe._MAX_STEPS", 3)
    with pytest.warns(ConvergenceWarning, match=r"slope must be 0 within 1e-06, got .* at weight_decay 0.001"):
        LinearProbe(network()).fit(X, Y)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, Y + 1, {}, r"y must hold class indices in \[0, 3\), got 3.*The head gives 3 scores: adapt\(source"),
        (X, np.eye(5)[Y], {}, r"one-hot \(N, 3\), got shape \(60, 5\)"),
        (X, Y[1:], {}, "one label per sample, 60, got 59"),
        (X * np.nan, Y, {}, "x must be finite, got NaN or infinity in 60"),
        (X[:0], Y[:0], {}, "x must hold at least one sample"),
        (X, Y, {"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        (X, Y, {"validation_data": (X, Y + 1)}, "y of validation_data must hold class indices"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_changed(x, y, options, message):
    trained = network()
    before = trained.head.weight.clone()
    with pytest.raises(ValueError, match=message):
        LinearProbe(trained).fit(x, y, **options)
    assert torch.equal(trained.head.weight, before)


@pytest.mark.parametrize("weight_decay", [0, -1.0, np.nan, "much", (), (1e-3, 0), np.array(0.0), np.array([1.0, -1.0])])
def test_a_weight_decay_must_be_above_zero(weight_decay):
    with pytest.raises(ValueError, match="weight_decay must be a number above 0, or several"):
        LinearProbe(network(), weight_decay)


def test_several_weight_decays_want_validation_data():
    with pytest.raises(ValueError, match="validation_data must be given to choose one of 2 weight decays"):
        LinearProbe(network(), (1e-3, 1e-2)).fit(X, Y)


@pytest.mark.parametrize(
    ("make", "head", "error", "message"),
    [
        (lambda: shaken(Residual()), None, TypeError, r"must be plain, got an OATModel\. Fix its lam: adapt\(model"),
        (
            lambda: nn.Sequential(conv(1, 4), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            None,
            ValueError,
            "the head must be a linear layer, got '1', a Conv2d",
        ),
        (Residual, "haed", ValueError, r"got 'haed' \(near: \['head'"),
        (lambda: shaken(Residual()).pinned(0.3), "network.head", TypeError, r"got a PinnedNetwork: use fold\(model"),
        (
            lambda: nn.Sequential(nn.Identity(), shaken(Residual())),
            None,
            TypeError,
            "must not hold an OATModel, got one",
        ),
    ],
)
def test_networks_that_cannot_be_probed_are_refused(make, head, error, message):
    with pytest.raises(error, match=message):
        LinearProbe(make(), head=head, input_shape=(1, 6, 6))


class Twice(nn.Module):
    """Calls its head twice, or returns something else than what that gives."""

    def __init__(self, *, is_twice: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.is_twice = nn.Linear(4, NB_CLASSES), is_twice

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features) + self.head(-features) if self.is_twice else self.head(features).abs()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("is_twice", "message"), [(True, "got 2 calls per batch"), (False, "must return the scores of its head")]
)
def test_a_head_that_is_not_all_there_is_is_refused_and_not_touched(is_twice, message, dtype):
    trained = Twice(is_twice=is_twice).to(dtype)
    before = trained.head.weight.clone()
    with pytest.raises(ValueError, match=message):
        LinearProbe(trained, input_shape=(1, 6, 6)).fit(X, Y)
    assert torch.equal(trained.head.weight, before)


def test_features_far_from_zero_and_lower_precision_are_no_fault():
    probe = LinearProbe(Between(lambda x: x + 300, torch.float32), head="head").fit(X, Y)
    assert probe.features(X).shape == (60, 8)
    with torch.autocast("cpu", torch.bfloat16):
        probe.fit(X, Y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_log_softmax_behind_the_head_and_one_hot_labels_change_nothing(dtype):
    one, other = network(dtype=dtype), nn.Sequential(network(dtype=dtype), nn.LogSoftmax(dim=1))
    LinearProbe(one).fit(X, Y)
    LinearProbe(other, np.array([1e-3]), head="0.head").fit(X, np.eye(NB_CLASSES)[Y])
    assert torch.equal(one.head.weight, other[0].head.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_accuracy_is_that_of_the_network_as_it_is(dtype):
    trained = network(dtype=dtype)
    probe = LinearProbe(trained, (1e-3,)).fit(X, Y, (X_VALIDATION, Y_VALIDATION))
    accuracy = (scores_of(trained, X_VALIDATION).argmax(axis=1) == Y_VALIDATION).mean()
    assert probe.accuracy == pytest.approx(accuracy, abs=1 / 30)  # scores in bfloat16 may tie


def test_every_lam_of_one_network_gives_features_of_its_own():
    model = shaken(Residual())
    features = [LinearProbe(adapt(model, NB_CLASSES, lam=lam)).features(X) for lam in (0.0, 0.3, 1.0)]
    assert all(not np.allclose(one, other) for one, other in itertools.pairwise(features))
    source = Residual()
    plain = LinearProbe(adapt(source, NB_CLASSES)).features(X)
    converted = LinearProbe(adapt(to_conditional(source), NB_CLASSES, lam=0.7)).features(X)
    np.testing.assert_allclose(plain, converted, rtol=1e-5, atol=1e-6)
