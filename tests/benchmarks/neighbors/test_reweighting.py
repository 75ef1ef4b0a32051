import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.training import Callback, hybrid_loss
from art_oat.training.awp import adversarial_part
from benchmarks.neighbors.reweighting import DoublyRobust, Margins, ReweightedLoss, Start, by_group, reweighted
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer

Y = torch.tensor([0, 1, 2, 0, 1, 2])
LAM = torch.tensor([0.0, 0.2, 0.2, 1.0, 1.0, 1.0], dtype=torch.float64)
WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), label_smoothing=0.1)
NOW = Start(-1)


class Watch(Callback):
    def __init__(self, start, seen):
        self.start, self.seen = start, seen

    def on_step_end(self, step, metrics):
        self.seen.append(self.start.is_past)


def scores():
    torch.manual_seed(0)
    return torch.randn(6, 3, dtype=torch.float64), 2 * torch.randn(5, 3, dtype=torch.float64)


@pytest.mark.parametrize("rule", [DoublyRobust(0.7), Margins(10, -0.5)])
@pytest.mark.parametrize("criterion", [None, WEIGHTED])
@pytest.mark.parametrize("is_soft", [False, True])
def test_weights_have_the_mean_one_for_every_lam_so_that_equal_samples_train_as_by_the_hybrid_loss(
    rule, criterion, is_soft
):
    logits, logits_adv = scores()
    y = F.one_hot(Y).double() if is_soft else Y
    flat = torch.zeros_like(logits_adv) + torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    same = y[1:2].expand_as(y) if is_soft else torch.ones_like(Y)
    loss = ReweightedLoss(rule, NOW)
    torch.testing.assert_close(
        loss(logits, flat, same, LAM, criterion), hybrid_loss(logits, flat, same, LAM, criterion)
    )
    uneven, expected = (it(logits, logits_adv, y, LAM, criterion) for it in (loss, hybrid_loss))
    assert abs(uneven - expected) > 1e-2


def test_weights_by_class_have_the_mean_one_by_class_weights():
    found = by_group(
        torch.tensor([0.0, 1.0, 5.0, 2.0]), torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([1.0, 1, 0.2, 0.3])
    )
    assert float(found[0] + 3 * found[1]) == pytest.approx(4)
    assert found[1] / found[0] == pytest.approx(torch.e)
    assert found[2:].tolist() == [1, 1]


def test_the_gradient_of_doubly_robust_weights_is_that_of_the_regularized_worst_case():
    _, logits_adv = scores()
    logits_adv.requires_grad_()
    one = torch.ones(5, dtype=torch.float64)
    loss = ReweightedLoss(DoublyRobust(0.7), NOW)(torch.zeros(5, 3).double(), logits_adv, Y[1:], one)
    losses = F.cross_entropy(logits_adv, Y[1:], reduction="none")
    worst = 0.7 * (losses / 0.7).exp().mean().log()
    found, expected = (torch.autograd.grad(it, logits_adv, retain_graph=True)[0] for it in (loss, worst))
    torch.testing.assert_close(found, expected)


def test_doubly_robust_weights_attain_the_maximum_that_the_paper_regularizes():
    losses = torch.tensor([0.1, 2.0, 0.7], dtype=torch.float64)
    best = by_group(DoublyRobust(0.7)(losses, losses, losses), torch.ones(3).double(), torch.ones(3))

    def objective(weights):
        return (weights * losses).mean() - 0.7 * (weights * weights.log()).mean()

    assert objective(best) == pytest.approx(0.7 * float((losses / 0.7).exp().mean().log()))
    for other in torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        assert objective(3 * other / other.sum()) < objective(best)


def test_margin_weights_are_a_sigmoid_of_the_margin_of_probabilities():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], dtype=torch.float64)
    found = by_group(Margins(10, -0.5)(probabilities.log(), Y[:2], Y[[0, 2]]), torch.ones(2), torch.ones(2))
    raw = 1 / (1 + (10 * (torch.tensor([0.5, -0.3], dtype=torch.float64) + 0.5)).exp())
    torch.testing.assert_close(found, 2 * raw / raw.sum())


def test_the_perturbation_of_weights_climbs_the_attacked_part_of_the_same_loss():
    logits, logits_adv = scores()
    loss = ReweightedLoss(DoublyRobust(0.7), NOW)
    climbed = adversarial_part(loss, logits[1:], logits_adv, Y[1:], LAM[1:])
    flat = torch.zeros_like(logits)
    own = loss(flat, logits_adv, Y, LAM) - (1 - LAM).mean() * torch.tensor(3.0).double().log()
    torch.testing.assert_close(5 * climbed, 6 * own)


def test_samples_count_alike_before_the_start_and_inputs_are_augmented_as_before():
    logits, logits_adv = scores()
    start = Start(1, lambda x, _: x + 1)
    loss = ReweightedLoss(Margins(10, -0.5), start)
    assert start(torch.zeros(1), torch.Generator()) == 1
    assert loss(logits, logits_adv, Y, LAM) == hybrid_loss(logits, logits_adv, Y, LAM)
    start(torch.zeros(1), torch.Generator())
    assert loss(logits, logits_adv, Y, LAM) != hybrid_loss(logits, logits_adv, Y, LAM)


def test_weights_begin_at_the_share_of_the_steps_that_was_asked_for():
    data = few_digits()
    own = trainer(data, weight_perturbation=0.01)
    reweighted(Margins(10, -0.5), 0.5)(own, data, RECIPE)  # of four steps
    start = own.method.augmentation
    seen = []
    own.fit(*data.train, batch_size=16, nb_epochs=1, verbose=False, callbacks=[Watch(start, seen)])
    assert seen == [False, False, True, True]
