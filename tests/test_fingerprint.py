import functools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoAttack, FastGradientMethod, ProjectedGradientDescent
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch

from art_oat import PGD
from art_oat.fingerprint import differences, fingerprint, unsaid


def plain(network, x, y):
    return x


def plus_one(network, x, y):
    return x + 1


def plus_two(network, x, y):
    return x + 2


@dataclass
class Shown:
    size: float
    told: object = field(default=None, repr=False)


def parts(classifier):
    fgm = [FastGradientMethod(classifier, eps=eps) for eps in (0.1, 0.2)]
    return [
        *(None, True, 2, 0.5, "text", 1e400),
        *([1, 2], [2, 1], {"a": 1}, {"a": 2}, {3, 1}),
        *(PGD(0.1), PGD(0.2)),
        *fgm,
        *(AutoAttack(classifier, attacks=[it]) for it in fgm),
        *(
            ProjectedGradientDescent(classifier, eps=np.full((1, 40, 40), eps), eps_step=np.full((1, 40, 40), 0.01))
            for eps in (0.1, 0.2)
        ),
        *(StandardisationMeanStdPyTorch(0.5, std, device_type="cpu") for std in (0.2, 0.25)),
        *(plain, plus_one, plus_two, functools.partial(plain, y=1), functools.partial(plain, y=2)),
        *(Shown(1), Shown(2), torch.float32, torch.zeros(2), torch.ones(2), np.zeros(2), Shown, PGD),
    ]


def test_parts_that_could_give_another_result_have_other_fingerprints(classifier):
    marks = [json.dumps(fingerprint(part)) for part in parts(classifier)]
    assert len(set(marks)) == len(marks)


def test_a_fingerprint_is_plain_and_the_same_for_a_copy(classifier):
    for one, other in zip(parts(classifier), parts(classifier), strict=True):
        mark = fingerprint(one)
        assert mark == fingerprint(other) == json.loads(json.dumps(mark))
        assert " at 0x" not in str(mark)
        assert not unsaid(mark)


def test_what_a_repr_leaves_out_does_not_count():
    assert fingerprint(Shown(1, told="me")) == fingerprint(Shown(1, told="you"))
    assert fingerprint({"a": np.float64(0.5), "b": (1, 2)}) == fingerprint({"b": [np.int32(1), 2], "a": 0.5})


@pytest.mark.slow(seconds=1)
def test_a_fingerprint_is_the_same_in_another_process():
    script = "from tests.test_fingerprint import *; print(json.dumps(fingerprint([plus_one, {'b', 'a'}, PGD(0.1)])))"
    root = Path(__file__).parents[1]
    said = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == fingerprint([plus_one, {"a", "b"}, PGD(0.1)])


def test_what_does_not_say_all_its_settings_is_known_by_name():
    class Silent:
        def __call__(self, network, x, y):
            return x

    eps = 0.1
    assert unsaid(fingerprint({"attacks": [PGD(0.1), Silent()]})) == ["Silent"]
    assert unsaid(fingerprint(lambda network, x, y: x + eps)) == ["<lambda>"]
    assert unsaid(fingerprint(functools.partial(plain))) == []


@pytest.mark.parametrize(
    ("kept", "asked", "said"),
    [
        ({"attack": PGD(0.1), "seed": 1}, {"attack": PGD(0.1), "seed": 1}, ""),
        (
            {"attack": PGD(0.1), "seed": 1},
            {"attack": PGD(0.2), "seed": 2},
            "attack.eps was 0.1, is 0.2; seed was 1, is 2",
        ),
        ({"attack": PGD(0.1)}, {"attack": plain}, "attack was PGD, is plain"),
        ({"attack": None}, {"attack": PGD(0.1)}, "attack was None, is PGD"),
        ({"widths": (0.5, 1.0)}, {"width": 1}, "width was not there, is 1; widths was [0.5, 1.0], is not there"),
        (
            dict.fromkeys("abcdefg", 1),
            dict.fromkeys("abcdefg", 2),
            "a was 1, is 2; b was 1, is 2; c was 1, is 2; d was 1, is 2; e was 1, is 2; and 2 more",
        ),
    ],
)
def test_the_differences_of_two_runs_are_named(kept, asked, said):
    assert differences(json.loads(json.dumps(fingerprint(kept))), fingerprint(asked)) == said
