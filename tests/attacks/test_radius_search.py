import pytest
import torch

from art_oat import PGD, AutoAttack
from art_oat.attacks import RadiusSearch, distance
from art_oat.attacks.registry import AttackSpec, kind_of
from tests.evaluation.subjects import Linear, exact_radii, linear_data, plain_classifier, telling_eps

NB_ROUNDS = 8


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_on_a_linear_network_errors_are_as_near_as_the_finest_step_of_the_radius_allows(norm):
    network, (x, _) = Linear(2), linear_data(12)
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, norm)
    eps = telling_eps(exact)
    straight = PGD(eps, eps, 1, norm, has_random_start=False)
    x_adv = RadiusSearch((straight,), norm)(network, x, y, clip_values=(0, 1))
    far, is_near = distance(x, x_adv, norm), exact < eps
    assert torch.equal(network(x_adv).argmax(dim=1) != y, is_near)
    assert torch.equal(x_adv[~is_near], x[~is_near])
    assert (far[is_near] >= exact[is_near] * (1 - 1e-4)).all()
    assert (far[is_near] <= exact[is_near] + eps / 2 ** (NB_ROUNDS - 1)).all()


def test_each_round_halves_what_is_not_known_of_each_sample_and_leaves_alone_what_withstood_the_first():
    radii = []

    class Told:
        """Breaks the first sample from a share of 0.3 of its radius on, the second never."""

        def __init__(self, factor=1.0):
            self.factor = factor

        def scaled(self, factor):
            return Told(factor)

        def __call__(self, network, x, y, *, clip_values=None, generator=None):
            radii.append((self.factor, len(x)))
            return torch.where((x > 0) & (self.factor >= 0.3), x - 1 - self.factor, x)

    network = torch.nn.Linear(1, 2)
    network.weight.data, network.bias.data = torch.tensor([[0.0], [1.0]]), torch.zeros(2)
    x = torch.tensor([[0.5], [-0.5]])
    x_adv = RadiusSearch((Told(),), nb_rounds=4)(network, x, torch.tensor([1, 0]))
    assert radii == [(1.0, 2), (0.5, 1), (0.25, 1), (0.375, 1)]
    assert x_adv.flatten().tolist() == [0.5 - 1.375, -0.5]


def test_by_name_the_attacks_of_a_suite_are_searched_together_and_others_are_refused():
    spec = AttackSpec("search:screen", 0.2)
    (search,) = kind_of(spec.name).evaluate(spec, plain_classifier()).values()
    assert search.attacks == (AutoAttack(0.2, parts=("apgd-ce",)), AutoAttack(0.2, parts=("apgd-t",)))
    assert search.attacks[0].scaled(0.5) == AutoAttack(0.1, parts=("apgd-ce",))
    for name, classifier, message in (
        ("search:fmn-5", plain_classifier(), "must be one whose radius can be scaled"),
        ("search:autoattack", plain_classifier(nb_classes=2), "needs at least 4 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            kind_of(name).evaluate(AttackSpec(name, 0.2), classifier)
    assert kind_of("search:search:pgd-2") is None
