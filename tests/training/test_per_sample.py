import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import Method, OATTrainer, TRADESLoss
from art_oat.training import hybrid_loss, per_sample_loss
from tests.training.trained import ALL_WIDTHS, ATTACK, PERTURBED, double, one_step, with_criterion

LAM = torch.tensor([0.0, 0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
Y = torch.tensor([0, 3, 1, 2, 3])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)


def scores(seed: int) -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def obvious_hybrid(logits, logits_adv, y, lam):
    clean, adversarial = (F.cross_entropy(it, y, reduction="none") for it in (logits, logits_adv))
    return (1 - lam) * clean + lam * adversarial


def obvious_trades(logits, logits_adv, y, lam):
    moved = F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
    return F.cross_entropy(logits, y, reduction="none") + 6 * lam * moved


PAIRS = {
    "oat": (per_sample_loss(obvious_hybrid), hybrid_loss),
    "trades": (per_sample_loss(obvious_trades, objective="kl"), TRADESLoss()),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("y", [Y, scores(2).softmax(1)], ids=["indices", "probabilities"])
@pytest.mark.parametrize(("weight", "lam"), [*itertools.product((None, WEIGHT), (LAM, 0 * LAM, 0 * LAM + 1))])
def test_what_a_stranger_would_write_is_the_loss_of_the_library_with_its_gradients(name, y, weight, lam):
    criterion = None if weight is None or y.dim() > 1 else nn.CrossEntropyLoss(weight)
    found = []
    for loss in PAIRS[name]:
        clean, adversarial = scores(0).requires_grad_(), scores(1)[lam > 0].requires_grad_()
        value = loss(clean, adversarial, y, lam, criterion)
        found.append((value, torch.autograd.grad(value, [clean, adversarial], materialize_grads=True)))
    torch.testing.assert_close(*found)


METHODS = {
    "one width": {},
    "distilled": {"width_sampling": "all", "distills": True},
    "perturbed": PERTURBED,
    "in parts": {"accumulation_steps": 3},
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_as_the_loss_of_the_library_does(name, method):
    found = []
    for loss in PAIRS[name]:
        classifier = double(**(ALL_WIDTHS if method == "distilled" else {}))
        one_step(classifier, loss=loss, **METHODS[method])
        found.append({path: it.grad for path, it in classifier.model.named_parameters() if it.grad is not None})
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)  # float64; sums in another order


def test_clean_scores_stand_for_those_of_samples_that_are_not_attacked():
    clean, adversarial = scores(0), scores(1)
    distance = per_sample_loss(lambda logits, logits_adv, y, lam: (logits - logits_adv).abs().sum(1))
    expected = (clean - adversarial)[LAM > 0].abs().sum() / 5
    torch.testing.assert_close(distance(clean, adversarial[LAM > 0], Y, LAM), expected)


def test_its_objective_is_what_the_attack_maximizes(classifier):
    assert OATTrainer(classifier, Method(loss=PAIRS["trades"][0])).method.attack.objective == "kl"
    with pytest.raises(ValueError, match="objective must be one of"):
        per_sample_loss(obvious_hybrid, objective="margin")


def with_mean(logits, logits_adv, y, lam):
    return obvious_hybrid(logits, logits_adv, y, lam).mean()


@pytest.mark.parametrize(("function", "got"), [(with_mean, r"shape \[\]"), (lambda *_: None, "None")])
def test_a_function_that_gives_something_else_is_refused_before_training_with_what_to_do(classifier, function, got):
    with pytest.raises(TypeError, match=rf"3 losses, one per sample, got {got}.*reduction='none'"):
        OATTrainer(classifier, attack=ATTACK, loss=per_sample_loss(function))


def test_label_smoothing_which_it_would_not_see_is_refused():
    smoothed = with_criterion(nn.CrossEntropyLoss(label_smoothing=0.1))
    with pytest.raises(ValueError, match=r"label smoothing cannot be .* CrossEntropyLoss\(\)"):
        OATTrainer(smoothed, attack=ATTACK, loss=per_sample_loss(obvious_hybrid))


def test_the_obvious_function_without_the_adapter_is_refused_with_its_name():
    with pytest.raises(TypeError, match=r"loss must be callable on .*is given as per_sample_loss\(function\)"):
        Method(loss=with_mean)
    with pytest.raises(TypeError, match="function must be callable"):
        per_sample_loss("oat")
