import pytest
import torch
from torch import nn

from art_oat.attacks import FMN
from art_oat.evaluation import EvaluationOptions, evaluate
from tests.evaluation.subjects import Linear, X, affine_classifier, curved, exact_radii, linear_data, telling_eps


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("nb_classes", [2, 4])
def test_on_a_linear_network_with_a_run_to_each_class_the_nearest_error_is_at_the_exact_distance(norm, nb_classes):
    network = Linear(nb_classes)
    x, _ = linear_data(32)
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, norm)
    far, _ = FMN(10.0, norm, nb_restarts=nb_classes - 1).nearest(network, x, y)  # as many as there are other classes
    # nothing is nearer than the exact distance but by rounding; the radius last changed by 0.1% a step
    assert (far >= exact * (1 - 1e-4)).all()
    assert (far <= exact * 1.01).all()


def test_restarts_find_nothing_farther_and_a_seed_means_one_result():
    network, x = curved(), torch.from_numpy(X)
    y = network(x).argmax(dim=1)
    once, _ = FMN(1.0, nb_steps=5).nearest(network, x, y)
    attack = FMN(1.0, nb_steps=5, nb_restarts=5)
    far, x_adv = attack.nearest(network, x, y, generator=seeded())
    assert (far <= once).all()
    assert (far < once).any()
    assert torch.equal(x_adv, attack(network, x, y, generator=seeded()))
    assert not torch.equal(x_adv, attack(network, x, y, generator=seeded(1)))


def test_by_name_it_evaluates_a_view_behind_its_preprocessing_exactly():
    classifier, (x, _) = affine_classifier(), linear_data(12)
    classifier = type(classifier)(
        classifier.model, nn.CrossEntropyLoss(), (1, 6, 6), 4, clip_values=(0, 1), preprocessing=(0.5, 0.25)
    )
    network = classifier.at(0.3).as_module()
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, "Linf")
    eps = telling_eps(exact)
    report = evaluate(
        classifier, x.numpy(), y.numpy(), eps=eps, attack="fmn-50x4", lam=0.3, options=EvaluationOptions(verbose=False)
    )
    assert report.is_robust.tolist() == (exact > eps).tolist()
