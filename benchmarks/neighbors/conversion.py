"""Dials for networks that one has: what fine-tuning for an eighth of the epochs gains by a better start or schedule."""

import re
from collections.abc import Callable, Container
from typing import Any

import torch
from torch.nn import functional as F

from art_oat import OATTrainer, StratifiedSampling
from art_oat.attacks import bind
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from benchmarks.ablation import FEWER
from benchmarks.neighbors.neighbor import BASE, Neighbor, Prepare
from benchmarks.neighbors.one_step import PAIRED, PAIRING

_FILM = ".film."
_NORM = re.compile(r"\.(clean|adversarial)\.")
_SEED = 1000
"""Added to that of the recipe: a new start, not the one that the network was trained from."""


def renewed(share: float) -> Prepare:
    """Return what moves every weight on the line to a new start: ``(1 - share) w + share w_new``.

    "Shrink and perturb" (Ash and Adams 2020, arXiv:1910.08475), by which a network that was trained before learns
    nearly as well as a new one. Vectors stay as they are: norms and their statistics, biases, FiLM.
    """

    def prepare(trainer: OATTrainer, data: Dataset, recipe: Recipe) -> Dataset:
        with borrowed_generators(seed=recipe.seed + _SEED):
            new = dict(recipe.architecture(data).build().named_parameters())
        with torch.no_grad():
            for name, weight in trainer.classifier.model.network.named_parameters():
                if name in new and weight.dim() > 1:
                    weight.lerp_(new[name].to(weight), share)
        return data

    return prepare


def criticality(trainer: OATTrainer, data: Dataset, *, gamma: float = 0.1, nb_samples: int = 256) -> dict[str, float]:
    """Return by how much the attacked loss at the largest lam rises where one weight is at its worst nearby.

    Module robust criticality (Zhu et al. 2023, RiFT, arXiv:2308.02533): ``max CE(f(w + d; x'), y) - CE(f(w; x'), y)``
    over ``|d| <= gamma |w|`` for the weight of a layer, here in one step along its gradient.
    """
    classifier, lam = trainer.classifier, trainer.classifier.model.lambdas[-1]
    x, y = classifier.as_tensors(*(part[:nb_samples] for part in data.train))
    view = classifier.at(lam)
    attack = bind(trainer.method.attack, classifier).at(view.point)
    x_adv = attack(view.as_module(), x, y, generator=torch.Generator().manual_seed(0))
    weights = {
        name: it for name, it in classifier.model.network.named_parameters() if it.dim() > 1 and _FILM not in name
    }
    classifier.model.eval()
    start = F.cross_entropy(classifier.model(x_adv, lam), y)
    found = {}
    for (name, weight), gradient in zip(weights.items(), torch.autograd.grad(start, [*weights.values()]), strict=True):
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.add_(gamma * weight.norm() * gradient / gradient.norm())
            found[name] = float(F.cross_entropy(classifier.model(x_adv, lam), y) - start)
            weight.copy_(kept)
    return found


def faster(factor: float, names: Callable[[OATTrainer, Dataset], Container[str]]) -> Prepare:
    """Return what lets some parameters learn at a rate times a factor; the optimizer gets groups of their own."""

    def prepare(trainer: OATTrainer, data: Dataset, _: Recipe) -> Dataset:
        chosen = names(trainer, data)
        fast = {it for name, it in trainer.classifier.model.network.named_parameters() if name in chosen}
        optimizer = trainer.classifier.optimizer
        for group in [*optimizer.param_groups]:
            own = [it for it in group["params"] if it in fast]
            group["params"] = [it for it in group["params"] if it not in fast]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": factor * group["lr"]})
        return data

    return prepare


def of_norms(trainer: OATTrainer, _: Dataset) -> set[str]:
    """Name what is new in a converted network: FiLM, and the affine weights of its norms."""
    named = trainer.classifier.model.network.named_parameters()
    return {name for name, it in named if _FILM in name or (it.dim() == 1 and _NORM.search(name))}


def of_critical_layers(trainer: OATTrainer, data: Dataset) -> set[str]:
    """Name the half of the weights that robustness hangs on most."""
    found = criticality(trainer, data)
    return set(sorted(found, key=found.__getitem__)[len(found) // 2 :])


_TUNED = {"pretrained": "lam-0", "schedule": "slow-start", "learning_rate": 0.2, "batch_size": 16}
_MORE = {"sampling": StratifiedSampling({1.0: 10.0})}


def _neighbor(
    what: str, *code: Any, source: str = "", prepare: Prepare | None = None, rival: str = "converted", **recipe: Any
) -> Neighbor:
    changes = {**_TUNED, **recipe}
    return Neighbor(what, source, changes, epochs=1 / FEWER, prepare=prepare, code=code, rival=rival)


# chosen on held-out images of two folds of digits of seed 100, PGD-50, mean over lam 0.2 and 1 (clean accuracy: all
# within a point of each other): training from scratch for all epochs 72.2%; for an eighth, fine-tuned 62.5%, with EMA
# 0.99 61.7%, with eps growing over half of the steps 60.3%, one-cycle 62.8%, rate 0.4 in batches of 32 62.4%, a new
# network in its place 65.6%; lam 1 drawn 10 times as often 65.0%, 20 times 64.7%, 10 times and half renewed 66.8%,
# renewed by 0.8 64.5%, and a new network in its place 65.9%. On a fold of seed 0, test images: all epochs 73.8%,
# fine-tuned 62.2%, lam 1 drawn 10 times as often 64.1%, and half renewed 63.1%, a new network in its place 65.0%
NEIGHBORS = {
    "converted": _neighbor("fine-tuned for an eighth of the epochs, slow-start", rival=BASE),
    "converted, eps grows": _neighbor("the same, eps grows from 0", source="arXiv:2509.23325", eps_warmup=0.5),
    "converted, more of lam 1": _neighbor("the same, lam 1 ten times as often as others", **_MORE),
    "converted, half renewed": _neighbor(
        "the same, half way to a new start", renewed, source="arXiv:1910.08475", prepare=renewed(0.5), **_MORE
    ),
    "converted, logit pairing": _neighbor(
        "the same, lam 1 ten times as often as others, attacks may not move scores", source=PAIRING, **_MORE, **PAIRED
    ),
    "converted, half renewed, logit pairing": _neighbor(
        "the same, half way to a new start, attacks may not move scores",
        renewed,
        source=f"arXiv:1910.08475, {PAIRING}",
        prepare=renewed(0.5),
        **_MORE,
        **PAIRED,
    ),
    "converted, norms faster": _neighbor(
        "fine-tuned, what is new and norms at three times the rate", faster, of_norms, prepare=faster(3.0, of_norms)
    ),
    "converted, critical layers faster": _neighbor(
        "fine-tuned, the half of the weights that robustness hangs on at three times the rate",
        faster,
        criticality,
        of_critical_layers,
        source="arXiv:2308.02533",
        prepare=faster(3.0, of_critical_layers),
    ),
    "new start alone": _neighbor("the same from random weights: no conversion", pretrained=None, **_MORE),
}
