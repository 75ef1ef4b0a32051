import numpy as np
import pytest
from art.attacks.evasion import DeepFool

from art_oat import PGD, AutoAttack
from art_oat.evaluation import EvaluationOptions, SecurityCurve, ThreatModel
from tests.evaluation.subjects import affine_classifier, exact_radii, linear_data

QUIET = EvaluationOptions(verbose=False)
X = linear_data(12)[0]


@pytest.fixture(scope="module")
def subject():
    """A network that is affine at every lam, what it answers at lam 0.3, and the exact distance to the next error."""
    classifier = affine_classifier()
    network = classifier.at(0.3).as_module()
    y = network(X).argmax(dim=1)
    return classifier, y.numpy(), exact_radii(network, X, y, "Linf").double().numpy()


def measured(subject, **changed) -> SecurityCurve:
    classifier, y, exact = subject
    given = {"eps_max": ThreatModel(2 * exact.max(), allow_large_eps=True), "lambdas": [0.3], "options": QUIET}
    return SecurityCurve.measure(classifier, X.numpy(), y, **{"attack": "fmn-60x4", **given, **changed})


def test_the_accuracy_of_an_affine_network_is_the_exact_one_at_every_radius(subject):
    exact = subject[2]
    nearest = measured(subject).nearest[0]
    is_in_range = exact < 0.3  # from where on a pixel of X may reach a bound
    assert is_in_range.sum() >= 6
    np.testing.assert_allclose(nearest[is_in_range], exact[is_in_range], rtol=0.01)


def test_what_the_check_breaks_counts_as_broken_at_its_radius_and_nothing_is_raised(subject):
    exact = subject[2]
    eps = float(np.sort(exact)[7] * 1.1)
    blind = lambda network, x, y, *, clip_values=None, generator=None: x  # noqa: E731
    curve = measured(subject, attack=blind, check_eps=(eps,), check=PGD(eps, nb_steps=40))
    is_broken = np.isfinite(curve.nearest[0])
    assert 0 < is_broken.sum() == curve.missed().item()
    assert (exact[is_broken] < eps).all()
    assert np.isinf(curve.searched).all()
    assert curve.accuracy(eps) == pytest.approx(1 - is_broken.mean())
    both = measured(subject, check_eps=(eps,), check=PGD(eps, nb_steps=40))
    assert (both.nearest <= both.searched).all()
    np.testing.assert_allclose(both.nearest, measured(subject).nearest)


def test_an_attack_of_one_radius_searches_by_bisection_and_follows_the_exact_distances(subject):
    exact = subject[2]
    nearest = measured(subject, attack="search:pgd-10").nearest[0]
    assert (nearest >= exact * (1 - 1e-4)).all()
    assert (nearest <= 2 * exact).all()  # the cross-entropy leads between the classes, not to the nearest of them


def test_what_an_attack_finds_beyond_the_largest_radius_was_not_found(subject):
    exact = subject[2]
    eps = float(np.sort(exact)[7])
    far = measured(subject, attack=DeepFool(subject[0], max_iter=5, verbose=False), eps_max=eps)
    assert (np.isfinite(far.nearest[0]) <= (exact <= eps)).all()
    assert 0 < np.isfinite(far.nearest).sum() < len(exact)


def test_a_measurement_that_is_kept_is_not_taken_again(subject, tmp_path):
    calls = []

    class Counted:
        def __repr__(self) -> str:
            return "Counted()"

        def __call__(self, network, x, y, *, clip_values=None, generator=None):
            calls.append(len(x))
            return x

    options = EvaluationOptions(verbose=False, shard_size=5, nb_robust=10, state=tmp_path)
    first, second = (measured(subject, attack=Counted(), options=options) for _ in range(2))
    assert len(calls) == 2
    assert np.array_equal(first.nearest, second.nearest)
    assert np.array_equal(first.index, second.index)
    assert len(first.index) == 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps_max": 0.7}, "eps must be below 0.5"),
        ({"check_eps": (9.0,), "eps_max": 0.2}, r"check_eps\[0\] must lie in \(0, 0.2\]"),
        ({"check_eps": 0.1}, "check_eps must be several radii"),
        ({"check_eps": (0.1,), "check": ["pgd-1", "pgd-2"]}, "check must be one attack, got 2"),
        ({"attack": ["pgd-1", "pgd-2"]}, "attack must be one, got 2"),
        ({"attack": "pgd-3"}, "attack must look for the nearest error, which pgd-3 does not: .* search:pgd-20"),
        ({"attack": PGD(0.1)}, "attack must look for the nearest error, which PGD does not"),
        ({"attack": AutoAttack(0.1), "eps_max": 0.1}, "which autoattack does not"),
        ({"attack": "torchattacks:PGD"}, "which torchattacks:PGD does not"),
        ({"options": EvaluationOptions(latency_batch_size=2)}, "latency_batch_size must be left out"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_attacked(subject, changed, message):
    with pytest.raises(ValueError, match=message):
        measured(subject, **changed)
