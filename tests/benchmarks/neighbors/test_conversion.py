import pytest
import torch
from torch.nn import functional as F

from art_oat.contexts import borrowed_generators
from benchmarks.neighbors import conversion
from benchmarks.neighbors.conversion import criticality, faster, of_norms, renewed
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer

DATA = few_digits()


@pytest.fixture
def own():
    return trainer(DATA)


def parameters(own):
    return dict(own.classifier.model.network.named_parameters())


def test_a_renewed_weight_lies_on_the_line_to_a_new_start_and_vectors_stay(own):
    before = {name: it.detach().clone() for name, it in parameters(own).items()}
    renewed(0.25)(own, DATA, RECIPE)
    with borrowed_generators(seed=RECIPE.seed + 1000):
        new = dict(RECIPE.architecture(DATA).build().named_parameters())
    for name, after in parameters(own).items():
        is_moved = name in new and after.dim() > 1
        expected = 0.75 * before[name] + 0.25 * new[name] if is_moved else before[name]
        torch.testing.assert_close(after, expected)
    assert not torch.equal(parameters(own)["head.weight"], before["head.weight"])


def test_criticality_is_the_rise_of_the_attacked_loss_after_one_step_uphill(own):
    found = criticality(own, DATA, gamma=1e-3)
    assert [*found] == [name for name, it in parameters(own).items() if it.dim() > 1 and ".film." not in name]
    assert all(rise > 0 for rise in found.values())
    assert criticality(own, DATA, gamma=1e-3) == found  # weights are back
    # to first order the rise is gamma |w| |gradient|
    classifier = own.classifier
    x, y = classifier.as_tensors(*DATA.train)
    view = classifier.at(1.0)
    x_adv = own.method.attack(view.as_module(), x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(0))
    weight = parameters(own)["head.weight"]
    (gradient,) = torch.autograd.grad(F.cross_entropy(classifier.model(x_adv, 1.0), y), weight)
    assert found["head.weight"] == pytest.approx(float(1e-3 * weight.detach().norm() * gradient.norm()), rel=0.05)


def test_parameters_that_learn_faster_are_in_one_group_of_their_own(own):
    rates = {it: group["lr"] for group in own.classifier.optimizer.param_groups for it in group["params"]}
    faster(3.0, of_norms)(own, DATA, RECIPE)
    groups = own.classifier.optimizer.param_groups
    after = {it: group["lr"] for group in groups for it in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(after) == len(rates)
    fast = of_norms(own, DATA)
    assert {"head.weight", "head.bias"}.isdisjoint(fast)
    for name, it in parameters(own).items():
        assert after[it] == rates[it] * (3.0 if name in fast else 1.0)


def test_every_neighbor_has_an_eighth_of_the_epochs_and_starts_from_a_natural_network():
    assert conversion.NEIGHBORS
    for name, neighbor in conversion.NEIGHBORS.items():
        recipe = neighbor.changed(RECIPE.changed(nb_epochs=64))
        assert recipe.nb_epochs == 8
        assert (recipe.pretrained is not None) != ("new start alone" in name)
