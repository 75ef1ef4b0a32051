import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, ProjectedGradientDescentPyTorch

from art_oat import PGD, Method, OATTrainer, WeightPerturbation, to_conditional
from art_oat.attacks import distance
from art_oat.data import digits
from art_oat.experiment.build import train
from art_oat.experiment.recipe import Recipe
from art_oat.layers.channel_affine import ChannelAffine
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual
from tests.pairs import parametrize_in_pairs
from tests.training.trained import Watched, X, Y, classifier_of, fit, is_same, trained

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Noting:
    """An attack that leaves inputs alone, and notes what the network answers and is made of."""

    def __init__(self) -> None:
        self.scores: list[torch.dtype] = []
        self.coefficients: set[torch.dtype] = set()

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.scores.append(network(x).dtype)
        affines = [part for part in network.modules() if isinstance(part, ChannelAffine)]
        self.coefficients |= {value.dtype for affine in affines for value in affine.coefficients}
        return x


def test_in_bf16_passes_are_lower_and_affines_scores_weights_and_measurements_are_not(classifier):
    attack, loss = Noting(), Watched()
    fit(classifier, X, Y, (X, Y), attack=attack, loss=loss, precision="bf16", nb_epochs=1)
    nb_points = len(classifier.model.lambdas)
    assert attack.scores == 2 * [torch.bfloat16] + nb_points * [torch.float32]  # two steps, then the validation
    assert attack.coefficients == {torch.float32}
    assert {scores.dtype for call in loss.calls for scores in call[:2]} == {torch.float32}
    for tensor in classifier.model.state_dict().values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.isfinite().all()
    gradients = [parameter.grad for parameter in classifier.model.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_a_step_in_bf16_has_the_loss_of_one_in_float32_to_rounding(widths):
    options = {"attack": Noting(), "width_sampling": "all", "batch_size": 20, "nb_epochs": 1}
    losses = [fit(make_classifier(widths=widths), precision=it, **options).history[0].loss for it in DTYPES]
    # a loss of about 2, from scores that a handful of layers rounded by 2^-9 of their size each
    assert losses[0] == pytest.approx(losses[1], abs=2 * 5 * 2**-9)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("make", [ProjectedGradientDescentPyTorch, DeepFool])
def test_attacks_of_art_run_in_bf16(classifier, make):
    options = {"eps": 0.1, "num_random_init": 1} if make is ProjectedGradientDescentPyTorch else {"epsilon": 1e-3}
    fit(classifier, attack=make(classifier, max_iter=2, verbose=False, **options), precision="bf16", nb_epochs=1)
    assert np.isfinite(classifier.predict(X)).all()


@pytest.mark.slow(seconds=1)
def test_digits_are_learned_in_bf16_as_in_float32():
    data, accuracies = digits(), []
    for precision in DTYPES:
        method = Method(attack="pgd-1", precision=precision)
        recipe = Recipe(
            data="digits", network="small-8-16", nb_epochs=4, batch_size=32, lambdas=(0.0, 1.0), method=method
        )
        classifier = train(recipe, data, keeps_best=False, verbose=False)
        accuracies.append(np.mean(classifier.predict(data.test.x, lam=0.0).argmax(axis=1) == data.test.y))
    assert accuracies[0] > 0.9
    assert abs(accuracies[0] - accuracies[1]) < 2 * np.sqrt(2 * 0.95 * 0.05 / 450)  # two standard errors


@parametrize_in_pairs(precision=DTYPES, attack_precision=[None, *DTYPES], perturbation=[None, WeightPerturbation(0.1)])
def test_attack_and_passes_of_training_each_compute_in_the_precision_asked_for(
    precision, attack_precision, perturbation
):
    classifier, attack, seen = make_classifier(), Noting(), set()

    def note(part, inputs, result):
        if part.training:  # plain networks, which have the hook as well, never are
            seen.add(result.dtype)

    for part in (classifier.model.network.body[0], classifier.model.network.head):
        part.register_forward_hook(note)
    options = {"precision": precision, "attack_precision": attack_precision, "weight_perturbation": perturbation}
    fit(classifier, X, Y, (X, Y), attack=attack, nb_epochs=1, **options)
    nb_points = len(classifier.model.lambdas)
    assert attack.scores == 2 * [DTYPES[attack_precision or precision]] + nb_points * [torch.float32]  # validation
    assert seen == {DTYPES[precision]}


def test_the_precision_of_the_attack_changes_nothing_but_what_the_attack_finds():
    assert is_same(trained(attack=Noting(), attack_precision="bf16"), trained(attack=Noting()))
    assert not is_same(trained(attack_precision="bf16"), trained())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_attack_in_bf16_gives_images_in_float32_within_its_radius(norm):
    attack, found = PGD(eps=0.1, nb_steps=3, norm=norm), []

    def noting(network, x, y, *, clip_values=None, generator=None):
        found.append((x, attack(network, x, y, clip_values=clip_values, generator=generator)))
        return found[-1][1]

    fit(attack=noting, attack_precision="bf16")
    for x, x_adv in found:
        assert x_adv.dtype == torch.float32
        far = distance(x, x_adv, norm)
        assert far.max() <= 0.1 + 1e-6  # roundings of float32
        assert far.min() > 0.01


def test_the_same_seed_gives_the_same_training_with_an_attack_in_bf16():
    first, again, other = (trained(seed=seed, attack_precision="bf16") for seed in (1, 1, 2))
    assert is_same(first, again)
    assert not is_same(first, other)


def test_every_fault_of_both_precisions_is_named():
    with pytest.raises(
        ValueError, match=r"precision must be one of .*, got 'fp8'.*attack_precision must .*, got 'fp4'"
    ):
        Method(precision="fp8", attack_precision="fp4")
    needs, double = "bf16 needs weights in float32", classifier_of(to_conditional(Residual().double()))
    with pytest.raises(ValueError, match=f"precision {needs}, .*attack_precision {needs}, got torch.float64"):
        OATTrainer(double, precision="bf16", attack_precision="bf16")
    with pytest.raises(ValueError, match=f"^attack_precision {needs}, got torch.float64"):
        OATTrainer(double, attack_precision="bf16")
