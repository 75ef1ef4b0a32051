import pytest
import torch

from art_oat import PGD, OATTrainer
from art_oat.attacks import ByLam
from art_oat.training import ResumeFile
from art_oat.training.dials import weight_of
from tests.conftest import make_classifier
from tests.training.trained import Growing, Spy, X, Y, double, fit, is_same, one_step, state

L2, LINF = PGD(0.5, 0.3, 2, "L2", has_random_start=False), PGD(0.1, 0.05, 2, has_random_start=False)
ABOVE = (0.1, 0.2, 0.3, 0.4, 1.0)
"""The lams above 0 of a network of the tests."""


def by_lam(first=L2, last=LINF):
    """One attack up to lam 0.3, another from there on."""
    return ByLam({lam: first if lam <= 0.3 else last for lam in ABOVE})


def test_lam_is_the_weight_or_the_weight_is_1_wherever_there_is_an_attack():
    lam = torch.tensor([0.0, 0.2, 1.0])
    assert weight_of(lam, "weight").tolist() == lam.tolist()
    assert weight_of(lam, "eps").tolist() == weight_of(lam, "attack").tolist() == [0, 1, 1]


def test_where_lam_sets_eps_each_group_is_attacked_within_its_share_and_judged_at_the_whole_radius():
    classifier = make_classifier()
    OATTrainer(classifier, attack=Growing(seen := []), dials="eps").fit(
        X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False
    )
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


def test_where_lam_sets_the_attack_a_step_trains_as_lam_1_does_with_that_attack():
    def trained_at(lam, attack, dials):
        classifier = double(lambdas=(lam,), learning_rate=0.1)
        one_step(classifier, attack=attack, dials=dials)
        return torch.cat([it.detach().flatten() for it in classifier.model.network.parameters()])

    expected = trained_at(1.0, L2, "weight")
    torch.testing.assert_close(trained_at(0.5, ByLam({0.5: L2}), "attack"), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(trained_at(0.5, ByLam({0.5: LINF}), "attack"), expected)


def test_where_lam_sets_the_attack_each_group_meets_its_own_and_that_of_the_largest_lam_validates():
    classifier, spies = make_classifier(), {lam: Spy() for lam in ABOVE}
    fit(classifier, X, Y, (X, Y), attack=ByLam(spies), dials="attack", nb_epochs=1)
    for lam, spy in spies.items():
        in_training = [network for network, x in zip(spy.networks, spy.x, strict=True) if len(x) < len(X)]
        assert {network.network.point.lam for network in in_training} == {lam}
        assert any(len(x) == len(X) for x in spy.x) == (lam == 1)  # of the validation


def test_a_training_by_lam_goes_on_from_its_file_to_the_bit_and_no_other_attack_does(tmp_path):
    def run(attack, name, *others):
        trainer = fit(attack=attack, dials="attack", callbacks=[ResumeFile(tmp_path / name), *others])
        return state(trainer.get_classifier())

    def cut(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(by_lam(), "cut", cut)
    with pytest.raises(ValueError, match=r"attack\.attacks\.0\.4\.eps was 0\.1, is 0\.2"):
        run(by_lam(last=PGD(0.2, 0.05, 2, has_random_start=False)), "cut")
    assert is_same(run(by_lam(), "cut"), run(by_lam(), "whole"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dials": "radius"}, "dials must be one of"),
        ({"dials": "eps", "fallback": "pgd-7"}, "fallback must be None with dials='eps'"),
        ({"dials": "eps", "compile_attack": True}, "compile_attack must be False with dials='eps'"),
        ({"dials": "eps", "attack": lambda network, x, y: x}, r"dials='eps' needs an attack with scaled\(factor\)"),
        ({"attack": by_lam()}, "dials must be 'attack' with a ByLam, .* got 'weight'"),
        ({"dials": "eps", "attack": by_lam()}, "dials must be 'attack' with a ByLam, .* got 'eps'"),
        ({"dials": "attack", "attack": "pgd-7"}, r"needs an attack for each lam, attack=ByLam\(.*, got 'pgd-7'"),
        ({"dials": "attack", "attack": LINF}, "needs an attack for each lam, .* got PGD"),
        ({"dials": "attack", "attack": by_lam(), "fallback": "pgd-7"}, "fallback must be None with dials='attack'"),
        ({"fallback": by_lam()}, "fallback must be one attack for every lam, got a ByLam"),
        ({"dials": "attack", "attack": by_lam(), "compile_attack": True}, "compile_attack must be False with dials"),
        (
            {"dials": "attack", "attack": ByLam({0.5: L2, 1.0: LINF})},
            r"trained, \[0.1, 0.2, 0.3, 0.4, 1.0\]: got none for \[0.1, 0.2, 0.3, 0.4\], and got some for \[0.5\]",
        ),
        (
            {"dials": "attack", "attack": by_lam(last=lambda network, x, y: x), "eps_warmup": 0.5},
            r"at lam 0.4, eps_warmup needs an attack with scaled\(factor\)",
        ),
        ({"dials": "attack", "attack": by_lam(last=PGD(0.7))}, r"eps at lam 1 must be below 0.5 \(Linf\)"),
    ],
)
def test_what_does_not_go_with_a_dial_of_eps_or_of_attacks_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(make_classifier(), **options)
