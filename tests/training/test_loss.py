import functools
import itertools
import math
from decimal import Decimal

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from art_oat import ALPLoss, MARTLoss, TRADESLoss
from art_oat.training import hybrid_loss, loss_by_name
from art_oat.training.loss import is_separable, objective_of

LAM = torch.tensor([0.0, 0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 2, 3])


def scores(seed: int) -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PROBABILITIES = torch.softmax(scores(2), dim=1)


def test_no_gradient_reaches_the_adversarial_scores_of_weight_0_or_the_clean_ones_of_weight_1():
    clean, attacked = scores(0).requires_grad_(), scores(1)[2:].requires_grad_()
    hybrid_loss(clean, attacked, Y, LAM).backward()
    assert clean.grad[4].abs().sum() == 0
    assert (clean.grad[:4].abs().sum(dim=1) > 0).all()
    assert (attacked.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("loss", [hybrid_loss, TRADESLoss(), MARTLoss(), ALPLoss()])
@pytest.mark.parametrize(
    ("nb_given", "nb_lams", "message"),
    [
        (3, 4, "lam must hold 5 weights, one per sample, got"),
        (2, 5, "logits_adv must hold 3 rows, one per lam above 0, got 2"),
        (5, 5, "logits_adv must hold 3 rows, one per lam above 0, got 5"),
    ],
)
def test_scores_and_lams_that_do_not_fit_together_are_refused(loss, nb_given, nb_lams, message):
    with pytest.raises(ValueError, match=message):
        loss(scores(0), scores(1)[:nb_given], Y, LAM[:nb_lams])


WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
LOSSES = {"oat": hybrid_loss, "trades": TRADESLoss(beta=2.5), "mart": MARTLoss(beta=3.5), "alp": ALPLoss(beta=1.5)}
CRITERIA = [
    nn.CrossEntropyLoss(weight, label_smoothing=smoothing)
    for weight, smoothing in itertools.product((None, WEIGHT), (0.0, 0.2))
]


def probabilities(row: torch.Tensor) -> list[float]:
    shares = [math.exp(value) for value in row.tolist()]
    return [share / sum(shares) for share in shares]


def divergence(first: torch.Tensor, second: torch.Tensor) -> float:
    return sum(p * math.log(p / q) for p, q in zip(probabilities(first), probabilities(second), strict=True))


def weighted_cross_entropy(row: torch.Tensor, target: list[float], weight: list[float], smoothing: float) -> float:
    """Of class shares ``target``, each with its weight, after smoothing."""
    nb_classes = len(target)
    shares = [(1 - smoothing) * share + smoothing / nb_classes for share in target]
    return -sum(w * share * math.log(p) for w, share, p in zip(weight, shares, probabilities(row), strict=True))


def margin(row: torch.Tensor, label: int) -> float:
    return -math.log(1 - max(p for k, p in enumerate(probabilities(row)) if k != label))


def slow_term(name, row, row_adv, target, lam, weight, smoothing) -> float:
    """What one sample adds to the sum, from the docstrings; with the betas of LOSSES."""
    own_weight = sum(w * share for w, share in zip(weight, target, strict=True))
    label = target.index(max(target))
    clean = weighted_cross_entropy(row, target, weight, smoothing)
    adversarial = weighted_cross_entropy(row_adv, target, weight, smoothing)
    moved = divergence(row, row_adv)
    if name == "oat":
        return (1 - lam) * clean + lam * adversarial
    if name == "trades":
        return clean + 2.5 * lam * own_weight * moved
    if name == "alp":
        squares = sum((a - b) ** 2 for a, b in zip(row.tolist(), row_adv.tolist(), strict=True)) / len(row)
        return (1 - lam) * clean + lam * (adversarial + 1.5 * own_weight * squares)
    boosted = adversarial + own_weight * margin(row_adv, label)
    return (1 - lam) * clean + lam * (boosted + own_weight * 3.5 * moved * (1 - probabilities(row)[label]))


def slow_loss(name, clean, attacked, y, criterion) -> float:
    """One loss for the samples of LAM; the adversarial scores of the first two have weight 0."""
    weight = [1.0] * 4 if criterion.weight is None else criterion.weight.tolist()
    targets = (y if y.dim() == 2 else F.one_hot(y, 4)).tolist()
    terms = [
        slow_term(name, row, row_adv, target, lam, weight, criterion.label_smoothing)
        for row, row_adv, target, lam in zip(clean, attacked, targets, LAM.tolist(), strict=True)
    ]
    return sum(terms) / (5 if y.dim() == 2 else sum(weight[label] for label in y.tolist()))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("y", [Y, PROBABILITIES], ids=["indices", "probabilities"])
@pytest.mark.parametrize("criterion", [None, *CRITERIA])
def test_every_loss_equals_its_formula_with_any_labels_class_weights_and_smoothing(name, y, criterion):
    clean, attacked = scores(0), scores(1)
    expected = slow_loss(name, clean, attacked, y, criterion or nn.CrossEntropyLoss())
    assert LOSSES[name](clean, attacked[2:], y, LAM, criterion).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("y", [Y, PROBABILITIES], ids=["indices", "probabilities"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_at_one_lam_the_hybrid_loss_weighs_two_losses_of_torch(y, criterion, lam):
    clean, attacked = scores(0), scores(1)
    expected = (1 - lam) * criterion(clean, y) + lam * criterion(attacked, y)
    actual = hybrid_loss(clean, attacked if lam else attacked[:0], y, torch.full_like(LAM, lam), criterion)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("loss", [TRADESLoss(), MARTLoss(), ALPLoss()])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("y", [Y, PROBABILITIES], ids=["indices", "probabilities"])
def test_at_lam_0_every_other_loss_is_natural_training(loss, criterion, y):
    clean, zeros = scores(0).requires_grad_(), torch.zeros(5, dtype=torch.float64)
    natural = torch.autograd.grad(criterion(clean, y), clean)
    actual = loss(clean, scores(1)[:0], y, zeros, criterion)
    torch.testing.assert_close(actual, criterion(clean, y))
    torch.testing.assert_close(torch.autograd.grad(actual, clean), natural)


def kl_by_torch(clean: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    return kl_divergence(Categorical(logits=clean), Categorical(logits=attacked))


def test_at_lam_1_trades_is_the_published_loss():
    clean, attacked, ones = scores(0), scores(1), torch.ones(5, dtype=torch.float64)
    expected = F.cross_entropy(clean, Y) + 6 * kl_by_torch(clean, attacked).mean()
    torch.testing.assert_close(TRADESLoss()(clean, attacked, Y, ones), expected)


def test_at_lam_1_mart_is_the_published_loss_but_for_what_that_adds_inside_a_logarithm():
    clean, attacked, ones = scores(0), scores(1), torch.ones(5, dtype=torch.float64)
    p, is_right = attacked.softmax(dim=1), F.one_hot(Y, 4).bool()
    wrong = p.masked_fill(is_right, 0).amax(dim=1)
    boosted = F.cross_entropy(attacked, Y) - (1.0001 - wrong).log().mean()  # as mart.py of YisenWang/MART has it
    doubt = 1 - clean.softmax(dim=1)[is_right]
    published = boosted + 5 * (kl_by_torch(clean, attacked) * doubt).mean()
    assert wrong.max() < 0.9  # so that 0.0001 lowers the logarithm by less than 0.0001 / 0.1
    assert 0 < MARTLoss()(clean, attacked, Y, ones) - published < 1e-3


def test_where_the_attack_does_not_move_the_scores_trades_is_the_cross_entropy():
    clean = scores(0).requires_grad_()
    attacked = clean.detach()[2:].clone().requires_grad_()
    loss = TRADESLoss()(clean, attacked, Y, LAM)
    torch.testing.assert_close(loss, F.cross_entropy(clean, Y), rtol=1e-14, atol=0)
    loss.backward()
    expected = torch.autograd.grad(F.cross_entropy(clean, Y), clean)[0]
    torch.testing.assert_close(clean.grad, expected, rtol=0, atol=1e-15)  # a divergence of 0 is at its least
    torch.testing.assert_close(attacked.grad, torch.zeros_like(attacked), rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", [TRADESLoss(), MARTLoss()])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradient_flows_through_both_scores_in_full(loss, criterion):
    clean, attacked = scores(0).requires_grad_(), scores(1)[2:].requires_grad_()
    # differences of the loss itself, so that a part cut off from the graph would show
    assert torch.autograd.gradcheck(lambda c, a: loss(c, a, Y, LAM, criterion), (clean, attacked))


def test_with_two_classes_the_boosted_cross_entropy_of_mart_is_twice_the_cross_entropy():
    # 1 - p_k of the only wrong class is p_y
    attacked = torch.tensor([[0.3, -1.0], [40.0, -40.0], [-400.0, 400.0], [2.0, 2.0]], dtype=torch.float64)
    y, one = torch.tensor([0, 1, 0, 1]), torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(MARTLoss()(attacked, attacked, y, one), 2 * F.cross_entropy(attacked, y))


SURE = torch.tensor(
    [
        [40.0, -40.0, -39.0],  # a wrong class with probability 1 - 7e-35
        [-40.0, 40.0, 3.0],
        [17.0, -19.0, -20.5],  # 1 - 3e-16, of which float64 keeps one digit
        [-400.0, 400.0, -400.0],
    ],
    dtype=torch.float64,
)
SURE_Y = torch.tensor([1, 2, 2, 0])


def exact_boosted_cross_entropy(row: torch.Tensor, label: int) -> Decimal:
    """``-log p_y - log(1 - max_{k != y} p_k)`` in numbers of 28 digits, without a cancellation."""
    shares = [Decimal(value).exp() for value in row.tolist()]
    wrong = max((k for k in range(len(shares)) if k != label), key=lambda k: shares[k])
    rest = sum(share for k, share in enumerate(shares) if k != wrong)
    return 2 * sum(shares).ln() - shares[label].ln() - rest.ln()


@pytest.mark.parametrize("index", range(4))
def test_the_margin_of_mart_is_exact_where_a_wrong_class_is_nearly_certain(index):
    row, y = SURE[index : index + 1], SURE_Y[index : index + 1]
    actual = MARTLoss()(row, row, y, torch.ones(1, dtype=torch.float64))  # equal scores: the divergence is 0
    expected = exact_boosted_cross_entropy(row[0], int(y))
    # 1 - p in float64 would have no correct digit, or be 0
    assert actual.item() == pytest.approx(float(expected), rel=1e-14)


def test_the_gradient_of_mart_is_exact_where_a_wrong_class_is_nearly_certain():
    attacked, one = SURE.clone().requires_grad_(), torch.ones(4, dtype=torch.float64)
    MARTLoss()(SURE, attacked, SURE_Y, one).backward()
    right = F.one_hot(SURE_Y, 3)
    wrong = F.one_hot((SURE - 1000 * right).argmax(dim=1), 3)
    p, among_others = SURE.softmax(dim=1), (SURE - 1000 * wrong).softmax(dim=1)
    # d -log p_y = p - right; d -log(1 - p_k) = p - the probabilities among all but k; that of the divergence is 0
    torch.testing.assert_close(attacked.grad, (2 * p - right - among_others) / 4, rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", [TRADESLoss(), MARTLoss()])
@pytest.mark.parametrize("size", [40.0, 1000.0])
def test_losses_and_gradients_stay_finite_with_scores_of_any_size(loss, size):
    opposite = torch.tensor([[size, -size, 0.0]]).requires_grad_()  # float32, where exp(-104) is 0
    attacked = (-opposite.detach()).requires_grad_()
    for y in (torch.tensor([0]), torch.tensor([1])):
        value = loss(opposite, attacked, y, torch.ones(1))
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (opposite, attacked)))


@pytest.mark.parametrize("make", [TRADESLoss, MARTLoss, ALPLoss])
@pytest.mark.parametrize("beta", [0, -1.0, math.nan, math.inf, True, None, "6"])
def test_a_beta_that_is_no_number_above_0_is_refused(make, beta):
    with pytest.raises((TypeError, ValueError), match=r"beta must be a number above 0, .* got "):
        make(beta)


# 1 / lambda of TRADES' published comparison; MART's as train_resnet.py of YisenWang/MART calls the loss; logit pairing
# as it was measured here
@pytest.mark.parametrize(
    ("name", "loss"), [("oat", hybrid_loss), ("trades", TRADESLoss(6)), ("mart", MARTLoss(5)), ("alp", ALPLoss(1))]
)
def test_a_loss_has_a_name_and_a_known_beta(name, loss):
    assert loss_by_name(name) == loss


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"loss must be one of \('oat', 'trades', 'mart', 'alp'\), got 'madry'"):
        loss_by_name("madry")


@pytest.mark.parametrize(
    ("loss", "objective"),
    [
        (hybrid_loss, "cross-entropy"),
        (MARTLoss(), "cross-entropy"),
        (ALPLoss(), "cross-entropy"),
        (TRADESLoss(), "kl"),
        (lambda *_: None, "cross-entropy"),
    ],
)
def test_the_attack_that_goes_with_a_loss_maximizes_the_divergence_for_trades_alone(loss, objective):
    assert objective_of(loss) == objective


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("y", [Y, PROBABILITIES], ids=["indices", "probabilities"])
def test_a_loss_is_called_separable_exactly_where_its_mixed_second_derivative_is_0(name, criterion, y):
    clean, attacked = scores(0).requires_grad_(), scores(1)[2:].requires_grad_()
    loss = LOSSES[name](clean, attacked, y, LAM, criterion)
    (of_clean,) = torch.autograd.grad(loss, clean, create_graph=True)
    (mixed,) = torch.autograd.grad((of_clean * scores(3)).sum(), attacked, allow_unused=True)
    is_sum = mixed is None or bool((mixed == 0).all())
    assert is_separable(LOSSES[name]) == is_sum


@pytest.mark.parametrize("claim", [True, False, None, 1, "yes"])
def test_a_loss_of_somebody_elses_is_separable_only_where_it_says_so(claim):
    loss = functools.partial(hybrid_loss, criterion=None)
    assert not is_separable(loss)
    loss.is_separable = claim
    assert is_separable(loss) == (claim is True)
