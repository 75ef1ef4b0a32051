"""Every evasion attack of ART and every attack of torchattacks: how each is run, or what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks import evasion
from art.attacks.evasion.laser_attack.laser_attack import LaserBeam, LaserBeamGenerator
from art.attacks.evasion.laser_attack.utils import Line
from torch import Tensor, nn

from tests.compat.comparison import (
    NB_CLASSES,
    NB_SAMPLES,
    SEED,
    Case,
    Comparison,
    Trial,
    compare,
    compare_modules,
    targets,
)


def _evade(
    name: str,
    *,
    scene: str = "image",
    is_slow: bool = False,
    labels: str = "true",
    nb_samples: int = NB_SAMPLES,
    **options: Any,
) -> Trial:
    """An attack that is built from an estimator and options, and called with inputs and labels."""

    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        attack = getattr(evasion, name)(estimator, **options)
        given = {"true": y, "targets": targets(y), "one-hot": np.eye(NB_CLASSES)[y], "none": None}[labels]
        return attack.generate(x, given)

    return Trial(case, scene, is_slow, nb_samples)


def _low_profool(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.LowProFool(estimator, n_steps=10, importance=np.full(64, 1 / 64))
    return attack.generate(x, targets(y))


def _laser(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    low, high = LaserBeam(380, 1, Line(0, 0)), LaserBeam(780, 8, Line(3.14, 16))
    return evasion.LaserAttack(estimator, 5, LaserBeamGenerator(low, high), random_initializations=1).generate(x, y)


def _feature_numpy(estimator: Any, x: np.ndarray, _: np.ndarray) -> Any:
    return evasion.FeatureAdversariesNumpy(estimator, delta=0.2, layer=0).generate(x[:1], x[1:2], maxiter=3)


def _feature_pytorch(estimator: Any, x: np.ndarray, _: np.ndarray) -> Any:
    attack = evasion.FeatureAdversariesPyTorch(
        estimator, delta=0.2, layer=0, max_iter=5, step_size=0.05, random_start=True, verbose=False
    )
    return attack.generate(x, x[::-1].copy())


def _frame_saliency(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attacker = evasion.FastGradientMethod(estimator, eps=0.3)
    return evasion.FrameSaliencyAttack(estimator, attacker, verbose=False).generate(x, y)


def _patch_numpy(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return evasion.AdversarialPatchNumpy(estimator, max_iter=3, batch_size=4, verbose=False).generate(x, targets(y))


def _patch_pytorch(name: str) -> Trial:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        attack = getattr(evasion, name)(estimator, patch_shape=(3, 16, 16), max_iter=3, batch_size=4, verbose=False)
        return attack.generate(x, targets(y))

    return Trial(case)


def _graphite_blackbox(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.GRAPHITEBlackbox(
        estimator, (16, 16), (16, 16), num_xforms_mask=4, num_xforms_boost=4, num_boost_queries=50, blur_kernels=(0,)
    )
    return attack.generate(x[:1], targets(y)[:1], x_tar=x[1:2])


def _graphite_whitebox(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.GRAPHITEWhiteboxPyTorch(
        estimator, (16, 16), step_size=0.1, min_tr=0.5, num_xforms=2, steps=3, first_steps=10, blur_kernels=(0,)
    )
    return attack.generate(x[:1], targets(y)[:1])


def _boundary(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.BoundaryAttack(estimator, targeted=False, max_iter=10, verbose=False)
    return attack.generate(x, y, x_adv_init=x[::-1].copy())  # left to itself, it draws a start that no seed fixes


def _hop_skip_jump(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.HopSkipJump(estimator, max_iter=3, max_eval=200, init_eval=20, verbose=False)
    return attack.generate(x, y, x_adv_init=x[::-1].copy())  # as the boundary attack


def _brendel_bethge(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    from art.attacks.evasion.brendel_bethge import BrendelBethgeAttack  # is there only where numba is

    return BrendelBethgeAttack(estimator, steps=5).generate(x, y, starting_points=x[::-1].copy())


QUIET: dict[str, Any] = {"verbose": False}
GRADIENT: dict[str, Any] = {"eps": 0.2, "eps_step": 0.05, "max_iter": 4, **QUIET}
CARLINI: dict[str, Any] = {"initial_const": 10.0, "learning_rate": 0.1, "max_iter": 10, **QUIET}
AUTO: dict[str, Any] = {"eps": 0.2, "eps_step": 0.1, "max_iter": 4, "nb_random_init": 1, **QUIET}


ART_ATTACKS: dict[str, Trial] = {
    "AdversarialPatch": _patch_pytorch("AdversarialPatch"),
    "AdversarialPatchNumpy": Trial(_patch_numpy),
    "AdversarialPatchPyTorch": _patch_pytorch("AdversarialPatchPyTorch"),
    "AutoAttack": _evade("AutoAttack", eps=0.1, eps_step=0.05, is_slow=True),
    "AutoConjugateGradient": _evade("AutoConjugateGradient", **AUTO, loss_type="cross_entropy"),
    "AutoProjectedGradientDescent": _evade("AutoProjectedGradientDescent", **AUTO, loss_type="difference_logits_ratio"),
    "BasicIterativeMethod": _evade("BasicIterativeMethod", **GRADIENT),
    "BoundaryAttack": Trial(_boundary),
    "BrendelBethgeAttack": Trial(_brendel_bethge, is_slow=True),
    "CarliniL0Method": _evade("CarliniL0Method", **CARLINI, binary_search_steps=2, is_slow=True),
    "CarliniL2Method": _evade("CarliniL2Method", **CARLINI, binary_search_steps=2),
    "CarliniLInfMethod": _evade("CarliniLInfMethod", **CARLINI, largest_const=11.0, is_slow=True),
    "CompositeAdversarialAttackPyTorch": _evade(
        "CompositeAdversarialAttackPyTorch", max_iter=2, max_inner_iter=2, batch_size=4, **QUIET
    ),
    "DeepFool": _evade("DeepFool", max_iter=10, nb_grads=5, **QUIET),
    "ElasticNet": _evade("ElasticNet", **CARLINI, binary_search_steps=2),
    "FastGradientMethod": _evade("FastGradientMethod", eps=0.2, num_random_init=2),
    "FeatureAdversariesNumpy": Trial(_feature_numpy, is_slow=True),
    "FeatureAdversariesPyTorch": Trial(_feature_pytorch),
    "FrameSaliencyAttack": Trial(_frame_saliency, "video", is_slow=True),
    "GRAPHITEBlackbox": Trial(_graphite_blackbox, is_slow=True),
    "GRAPHITEWhiteboxPyTorch": Trial(_graphite_whitebox, is_slow=True),
    "GeoDA": _evade("GeoDA", max_iter=1000, sub_dim=5, **QUIET),
    "HopSkipJump": Trial(_hop_skip_jump),
    "LaserAttack": Trial(_laser, "channels last"),
    "LowProFool": Trial(_low_profool, "tabular"),
    "MomentumIterativeMethod": _evade("MomentumIterativeMethod", **GRADIENT),
    "NewtonFool": _evade("NewtonFool", max_iter=5, **QUIET),
    "OverTheAirFlickeringPyTorch": _evade("OverTheAirFlickeringPyTorch", scene="video", max_iter=3, **QUIET),
    "PixelAttack": _evade("PixelAttack", th=10, es=1, max_iter=5, is_slow=True),
    "ProjectedGradientDescent": _evade("ProjectedGradientDescent", **GRADIENT, num_random_init=2),
    "ProjectedGradientDescentNumpy": _evade("ProjectedGradientDescentNumpy", **GRADIENT, norm=2, num_random_init=1),
    "ProjectedGradientDescentPyTorch": _evade(
        "ProjectedGradientDescentPyTorch", **GRADIENT, num_random_init=2, targeted=True, labels="targets"
    ),
    "RescalingAutoConjugateGradient": _evade(
        "RescalingAutoConjugateGradient", **AUTO, loss_type="difference_logits_ratio"
    ),
    "SaliencyMapMethod": _evade("SaliencyMapMethod", theta=0.5, gamma=0.02, **QUIET, labels="targets"),
    "ShadowAttack": _evade("ShadowAttack", nb_steps=5, batch_size=1, nb_samples=1, **QUIET),
    "SignOPTAttack": _evade(
        "SignOPTAttack", is_slow=True, targeted=False, num_trial=5, max_iter=3, k=5, query_limit=500, **QUIET
    ),
    "SimBA": _evade("SimBA", scene="probabilities", labels="one-hot", max_iter=20, epsilon=0.3, **QUIET),
    "SpatialTransformation": _evade(
        "SpatialTransformation", max_translation=10, num_translations=3, max_rotation=20, num_rotations=3, **QUIET
    ),
    "SquareAttack": _evade("SquareAttack", max_iter=10, eps=0.2, **QUIET),
    "TargetedUniversalPerturbation": _evade(
        "TargetedUniversalPerturbation",
        attacker="fgsm",
        max_iter=5,
        eps=0.5,
        labels="targets",
        attacker_params={"targeted": True, "eps": 0.5},
    ),
    "ThresholdAttack": _evade("ThresholdAttack", th=64, es=1, max_iter=1, nb_samples=2, is_slow=True),
    "UniversalPerturbation": _evade(
        "UniversalPerturbation", attacker="pgd", max_iter=2, eps=0.3, **QUIET, attacker_params={**GRADIENT}
    ),
    "VirtualAdversarialMethod": _evade(
        "VirtualAdversarialMethod", scene="probabilities", nb_samples=2, is_slow=True, max_iter=1, eps=0.3, **QUIET
    ),
    "Wasserstein": _evade(
        "Wasserstein",
        regularization=100,
        max_iter=5,
        conjugate_sinkhorn_max_iter=5,
        projected_sinkhorn_max_iter=5,
        batch_size=4,
        **QUIET,
    ),
    "ZooAttack": _evade(
        "ZooAttack",
        is_slow=True,
        initial_const=10.0,
        learning_rate=0.1,
        max_iter=20,
        nb_parallel=64,
        use_resize=False,
        use_importance=False,
        **QUIET,
    ),
}

EXTRAS: dict[str, str] = {
    "AutoAttack": "multiprocess",
    "BrendelBethgeAttack": "numba",
    "CompositeAdversarialAttackPyTorch": "kornia",
    "GRAPHITEBlackbox": "cv2",
    "GRAPHITEWhiteboxPyTorch": "cv2 and kornia",
}
"""Packages that ART neither asks for when it is installed nor does without."""

ART_NEEDS: dict[str, str] = {
    "AdversarialPatchTensorFlowV2": "TensorFlow",
    "AdversarialTexturePyTorch": "an object tracker on video",
    "CarliniWagnerASR": "a speech recognizer",
    "DPatch": "an object detector",
    "DecisionTreeAttack": "a scikit-learn decision tree",
    "FeatureAdversariesTensorFlowV2": "TensorFlow",
    "HighConfidenceLowUncertainty": "a GPy Gaussian process",
    "ImperceptibleASR": "a speech recognizer",
    "ImperceptibleASRPyTorch": "a speech recognizer",
    "MalwareGDTensorFlow": "TensorFlow, on malware",
    "OverloadPyTorch": "an object detector (YOLO)",
    "ProjectedGradientDescentTensorFlowV2": "TensorFlow",
    "RobustDPatch": "an object detector",
    "SNAL": "an object detector",
}


def _torch_attack(name: str, *, is_slow: bool = False, **options: Any) -> Trial:
    """An attack of torchattacks, built from a network and options."""

    def case(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
        attack = getattr(torchattacks, name)(network, **options)
        result: Tensor = attack(torch.from_numpy(x), torch.from_numpy(y))
        return result

    return Trial(case, is_slow=is_slow)


def _multi_attack(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
    parts = [torchattacks.FGSM(network, eps=0.1), torchattacks.PGD(network, eps=0.2, steps=3)]
    result: Tensor = torchattacks.MultiAttack(parts)(torch.from_numpy(x), torch.from_numpy(y))
    return result


STEPS: dict[str, Any] = {"eps": 0.1, "alpha": 0.03, "steps": 3}
EAD: dict[str, Any] = {"binary_search_steps": 2, "max_iterations": 10, "initial_const": 10.0, "lr": 0.1}

TORCH_ATTACKS: dict[str, Trial] = {
    "APGD": _torch_attack("APGD", eps=0.1, steps=5),
    "APGDT": _torch_attack("APGDT", eps=0.1, steps=5),
    "AutoAttack": _torch_attack("AutoAttack", eps=0.03, seed=SEED, is_slow=True),
    "BIM": _torch_attack("BIM", **STEPS),
    "CW": _torch_attack("CW", c=10, steps=10, lr=0.1),
    "DIFGSM": _torch_attack("DIFGSM", **STEPS),
    "DeepFool": _torch_attack("DeepFool", steps=10),
    "EADEN": _torch_attack("EADEN", **EAD),
    "EADL1": _torch_attack("EADL1", **EAD),
    "EOTPGD": _torch_attack("EOTPGD", **STEPS),
    "FAB": _torch_attack("FAB", eps=0.1, steps=3),
    "FFGSM": _torch_attack("FFGSM", eps=0.1),
    "FGSM": _torch_attack("FGSM", eps=0.1),
    "GN": _torch_attack("GN"),
    "JSMA": _torch_attack("JSMA", gamma=0.02, is_slow=True),
    "Jitter": _torch_attack("Jitter", **STEPS),
    "MIFGSM": _torch_attack("MIFGSM", **STEPS),
    "MultiAttack": Trial(_multi_attack),
    "NIFGSM": _torch_attack("NIFGSM", **STEPS),
    "OnePixel": _torch_attack("OnePixel", pixels=3, steps=3, popsize=10),
    "PGD": _torch_attack("PGD", **STEPS),
    "PGDL2": _torch_attack("PGDL2", steps=3),
    "PGDRS": _torch_attack("PGDRS", **STEPS),
    "PGDRSL2": _torch_attack("PGDRSL2", steps=3),
    "PIFGSM": _torch_attack("PIFGSM", max_epsilon=0.1, num_iter_set=3),
    "PIFGSMPP": _torch_attack("PIFGSMPP", max_epsilon=0.1, num_iter_set=3),
    "Pixle": _torch_attack("Pixle", restarts=3, max_iterations=5),
    "RFGSM": _torch_attack("RFGSM", **STEPS),
    "SINIFGSM": _torch_attack("SINIFGSM", **STEPS),
    "SPSA": _torch_attack("SPSA", eps=0.1, nb_sample=16, max_batch_size=16),
    "SparseFool": _torch_attack("SparseFool", steps=3, is_slow=True),
    "Square": _torch_attack("Square", eps=0.2, n_queries=20),
    "TIFGSM": _torch_attack("TIFGSM", **STEPS),
    "TPGD": _torch_attack("TPGD", **STEPS),
    "UPGD": _torch_attack("UPGD", **STEPS),
    "VANILA": _torch_attack("VANILA"),
    "VMIFGSM": _torch_attack("VMIFGSM", **STEPS),
    "VNIFGSM": _torch_attack("VNIFGSM", **STEPS),
}

TORCH_NEEDS: dict[str, str] = {"LGV": "a network that it may train: fold(model, point)"}


@dataclass(frozen=True)
class Library:
    """All attacks of one library.

    Args:
        names: What it has.
        attacks: How each is run that can be.
        needs: What each of the others needs.
        compare: How one is compared.
    """

    names: frozenset[str]
    attacks: Mapping[str, Trial]
    needs: Mapping[str, str]
    compare: Callable[[Case, str, int], Comparison]

    def unlisted(self) -> set[str]:
        """Return what the table says nothing about."""
        return set(self.names) - set(self.attacks) - set(self.needs)


LIBRARIES = {
    "ART": Library(
        frozenset(name for name, kind in vars(evasion).items() if inspect.isclass(kind)) | {"BrendelBethgeAttack"},
        ART_ATTACKS,
        ART_NEEDS,
        compare,
    ),
    "torchattacks": Library(frozenset(torchattacks.__all__), TORCH_ATTACKS, TORCH_NEEDS, compare_modules),
}
