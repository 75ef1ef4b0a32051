import functools

import numpy as np
from art.attacks.evasion import AutoAttack, FastGradientMethod, ProjectedGradientDescent

from art_oat import PGD
from art_oat.attacks.description import described


def without_closure(network, x, y):
    return x


def another(network, x, y):
    return x + 1


def test_attacks_that_could_find_something_else_are_told_apart(classifier):
    fgm = [FastGradientMethod(classifier, eps=eps) for eps in (0.1, 0.2)]
    attacks = [
        PGD(0.1),
        PGD(0.2),
        *fgm,
        *(AutoAttack(classifier, attacks=[it]) for it in fgm),
        *(
            ProjectedGradientDescent(classifier, eps=np.full((1, 6, 6), eps), eps_step=np.full((1, 6, 6), 0.01))
            for eps in (0.1, 0.2)
        ),
        without_closure,
        another,
    ]
    assert len({described(attack) for attack in attacks}) == len(attacks)


def test_a_description_is_the_same_for_a_copy(classifier):
    for make in (lambda: PGD(0.1), lambda: FastGradientMethod(classifier, eps=0.1), lambda: without_closure):
        assert described(make()) == described(make())
        assert " at 0x" not in described(make())


def test_what_does_not_say_its_settings_has_no_description():
    class Silent:
        def __call__(self, network, x, y):
            return x

    eps = 0.1
    assert described(Silent()) is None
    assert described(lambda network, x, y: x + eps) is None
    assert described(functools.partial(without_closure)) is not None
