"""Attacks of torchattacks, by name (``torchattacks:NAME``) and as objects; they know images in [0, 1] alone."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from art_oat.attacks.library import AttackLibrary, Perturb
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.classifier import OATClassifier, PinnedClassifier


def _owns(attack: Any) -> bool:
    module = sys.modules.get("torchattacks.attack")  # whoever has such an attack has imported it
    return module is not None and isinstance(attack, module.Attack)


def _faults(attack: Any, classifier: OATClassifier) -> list[str]:
    faults = unit_range_faults(classifier.clip_values, "a torchattacks attack")
    if attack.attack_mode == "targeted(label)":
        faults.append("attack must lead away from the labels, got one in the mode targeted(label).")
    if attack.normalization_used is not None:
        faults.append(
            "attack must take images in [0, 1], got one with set_normalization_used. "
            "The normalization belongs to the classifier: preprocessing=(mean, std)."
        )
    return faults


def _bind(attack: Any, view: PinnedClassifier) -> Perturb:
    module = view.as_module()
    network = UnitImages(module, view.clip_values, view.input_shape, channels_first=module.channels_first)
    # the model in the memo: attacks hold attacks, which hold the model again
    bound = copy.deepcopy(attack, {id(attack.model): network})
    bound.set_device(view.device)

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        for part in _parts(bound):
            if hasattr(part, "seed"):  # a fixed one would give every batch the same start
                part.seed = int(torch.randint(2**31, ()))
        return network.from_images(bound(network.to_images(x), y))

    return perturb


def _parts(attack: Any) -> Iterator[Any]:
    yield attack
    for nested in attack._attacks.values():
        yield from _parts(nested)


AttackLibrary(
    name="torchattacks",
    module="torchattacks",
    step="alpha",
    target=lambda classifier: classifier.at(classifier.model.lambdas[-1]).as_module(),
    arguments=lambda norm: {"norm": norm},
    owns=_owns,
    faults=_faults,
    bind=_bind,
    parts=_parts,
    takes_unit_images=True,
    extra="torchattacks",
    nearest=frozenset({"FAB"}),
).register()
