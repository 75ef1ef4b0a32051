import math

import pytest
import torch
from torch import nn

from art_oat import hybrid_loss

LAM = torch.tensor([0.0, 0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 2, 3])


def scores(seed: int) -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cross_entropy(row: torch.Tensor, target: int) -> float:
    values = row.tolist()
    return math.log(sum(math.exp(value) for value in values)) - values[target]


def test_the_loss_equals_its_formula():
    clean, attacked = scores(0), scores(1)
    terms = [
        (1 - lam) * cross_entropy(c, y) + lam * cross_entropy(a, y)
        for lam, c, a, y in zip(LAM.tolist(), clean, attacked, Y.tolist(), strict=True)
    ]
    assert hybrid_loss(clean, attacked[2:], Y, LAM).item() == pytest.approx(sum(terms) / 5, rel=1e-12)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_at_lam_0_and_1_it_is_the_clean_and_the_adversarial_loss(criterion):
    clean, attacked, zeros = scores(0), scores(1), torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(hybrid_loss(clean, attacked[:0], Y, zeros, criterion), criterion(clean, Y))
    torch.testing.assert_close(hybrid_loss(clean, attacked, Y, zeros + 1, criterion), criterion(attacked, Y))


def test_class_weights_count_as_in_torch():
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    criterion, clean, attacked = nn.CrossEntropyLoss(weight, label_smoothing=0.2), scores(0), scores(1)
    half = torch.full((5,), 0.5, dtype=torch.float64)
    expected = (criterion(clean, Y) + criterion(attacked, Y)) / 2
    torch.testing.assert_close(hybrid_loss(clean, attacked, Y, half, criterion), expected)


PROBABILITIES = torch.softmax(scores(2), dim=1)


def test_with_probabilities_the_loss_equals_its_formula():
    clean, attacked = scores(0), scores(1)

    def soft_cross_entropy(row: torch.Tensor, target: torch.Tensor) -> float:
        return sum(share * cross_entropy(row, k) for k, share in enumerate(target.tolist()))

    terms = [
        (1 - lam) * soft_cross_entropy(c, p) + lam * soft_cross_entropy(a, p)
        for lam, c, a, p in zip(LAM.tolist(), clean, attacked, PROBABILITIES, strict=True)
    ]
    assert hybrid_loss(clean, attacked[2:], PROBABILITIES, LAM).item() == pytest.approx(sum(terms) / 5, rel=1e-12)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_and_smoothing_count_for_probabilities_as_in_torch(weight, smoothing):
    criterion, clean, attacked = nn.CrossEntropyLoss(weight, label_smoothing=smoothing), scores(0), scores(1)
    quarter = torch.full((5,), 0.25, dtype=torch.float64)
    expected = 0.75 * criterion(clean, PROBABILITIES) + 0.25 * criterion(attacked, PROBABILITIES)
    torch.testing.assert_close(hybrid_loss(clean, attacked, PROBABILITIES, quarter, criterion), expected)


def test_no_gradient_reaches_the_adversarial_scores_of_weight_0_or_the_clean_ones_of_weight_1():
    clean, attacked = scores(0).requires_grad_(), scores(1)[2:].requires_grad_()
    hybrid_loss(clean, attacked, Y, LAM).backward()
    assert clean.grad[4].abs().sum() == 0
    assert (clean.grad[:4].abs().sum(dim=1) > 0).all()
    assert (attacked.grad.abs().sum(dim=1) > 0).all()


def test_a_lam_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="lam must hold 5 weights, one per sample, got"):
        hybrid_loss(scores(0), scores(1)[2:], Y, LAM[:4])


def test_adversarial_scores_that_do_not_fit_lam_are_refused():
    with pytest.raises(ValueError, match="logits_adv must hold 3 rows"):
        hybrid_loss(scores(0), scores(1), Y, LAM)
