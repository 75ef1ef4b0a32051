import pytest
import torch

from art_oat import PGD, OATTrainer
from art_oat.training.dials import weight_of
from tests.conftest import make_classifier
from tests.training.trained import Growing, X, Y, double, one_step


def test_lam_is_the_weight_or_the_weight_is_1_wherever_there_is_a_radius():
    lam = torch.tensor([0.0, 0.2, 1.0])
    assert weight_of(lam, "weight").tolist() == lam.tolist()
    assert weight_of(lam, "eps").tolist() == [0, 1, 1]


def test_where_lam_sets_eps_each_group_is_attacked_within_its_share_and_judged_at_the_whole_radius():
    classifier = make_classifier()
    OATTrainer(classifier, attack=Growing(seen := []), dials="eps").fit(X, Y, (X, Y), batch_size=10, verbose=False)
    above = [lam for lam in classifier.model.lambdas if lam > 0]
    assert sorted({factor for factor, nb_samples in seen if nb_samples < len(X)}) == pytest.approx(above)
    assert {factor for factor, nb_samples in seen if nb_samples == len(X)} == {1}  # of the validation


@pytest.mark.parametrize("perturbation", [None, 0.01])
def test_at_lam_half_a_dial_of_eps_trains_as_lam_1_does_within_half_the_radius(perturbation):
    def trained_at(lam, eps, dials):
        classifier = double(lambdas=(lam,), learning_rate=0.1)
        attack = PGD(eps, eps_step=eps / 2, nb_steps=2, has_random_start=False)
        one_step(classifier, attack=attack, weight_perturbation=perturbation, dials=dials)
        return torch.cat([it.detach().flatten() for it in classifier.model.network.parameters()])

    expected = trained_at(1.0, 0.1, "weight")
    torch.testing.assert_close(trained_at(0.5, 0.2, "eps"), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(trained_at(0.5, 0.1, "weight"), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dials": "radius"}, "dials must be one of"),
        ({"dials": "eps", "fallback": "pgd-7"}, "fallback must be None with dials='eps'"),
        ({"dials": "eps", "compile_attack": True}, "compile_attack must be False with dials='eps'"),
        ({"dials": "eps", "attack": lambda network, x, y: x}, r"dials='eps' needs an attack with scaled\(factor\)"),
    ],
)
def test_what_does_not_go_with_a_dial_of_eps_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(make_classifier(), **options)
