import torch
from art.attacks.evasion import ProjectedGradientDescent

from art_oat.attacks.library import library_of
from tests.conftest import make_classifier
from tests.networks import images, labels


def test_a_bound_attack_of_art_is_silent_and_gives_the_dtype_of_its_inputs(capfd):
    classifier = make_classifier()
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.1, max_iter=1, verbose=True)
    x_adv = library_of(attack).bind(attack, classifier.at(0.3))(images(), labels())
    assert x_adv.dtype == torch.float64
    assert capfd.readouterr().err == ""
    assert attack.verbose
