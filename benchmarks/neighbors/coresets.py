"""Adversarial coresets: training on a weighted part of the images, chosen anew every few epochs (arXiv:2112.00378)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.utils.data import DataLoader

from art_oat import OATClassifier, OATTrainer, fold
from art_oat.attacks import NFGSM
from art_oat.data import Dataset
from art_oat.data.dataset import Split
from art_oat.experiment.recipe import Recipe
from art_oat.transfer import find_head
from benchmarks.neighbors.neighbor import Neighbor
from benchmarks.neighbors.turns import Turns, loader

_NB_TOGETHER = 20
"""Images that are chosen or left together, as published; to choose image by image takes longer than to train."""

Choose = Callable[[], NDArray[np.float64]]
"""Returns how much each image counts, ``[N]``, 0 for those that are left out."""


def head_gradients(network: nn.Module, head: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each sample's cross-entropy by the last layer's weight and bias, ``[N, K * (F + 1)]``.

    That is ``(softmax f(x) - onehot y) (features, 1)^T``: a forward pass is enough.
    """
    features: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    try:
        with torch.no_grad():
            wrong = network(x).softmax(dim=1)
    finally:
        handle.remove()
    wrong[torch.arange(len(y)), y] -= 1
    extended = torch.cat([features[0], torch.ones_like(features[0][:, :1])], dim=1)
    return (wrong.unsqueeze(2) * extended.unsqueeze(1)).flatten(1)


def gradients_of_parts(classifier: OATClassifier, split: Split, eps: float, parts: Tensor) -> Tensor:
    """Return for each part of the images, ``[P, B]``, the sum of their last layer's gradients at both ends of the dial.

    Clean images at the smallest lam, and images after one step of an attack at the largest, side by side.
    """
    lambdas, sums = classifier.model.lambdas, []
    x, y = classifier.as_tensors(split.x, split.y)
    path = find_head(classifier.model)
    for lam in dict.fromkeys((lambdas[0], lambdas[-1])):
        plain = fold(classifier.model, lam)
        network, head = classifier.preprocessed(plain), plain.get_submodule(path)
        attack = NFGSM(eps, noise=1.0)
        found = []
        for part in parts:
            own, labels = x[part], y[part]
            if lam > 0:
                own = attack(network, own, labels, clip_values=classifier.clip_values, generator=torch.Generator())
            found.append(head_gradients(network, head, own, labels).sum(dim=0))
        sums.append(torch.stack(found))
    return torch.cat(sums, dim=1)


def matched(gradients: NDArray[np.float64], nb_chosen: int, ridge: float = 1e-3) -> NDArray[np.float64]:
    """Return weights ``w >= 0`` of at most so many rows ``[P]`` whose weighted sum comes near that of all rows.

    Orthogonal matching pursuit, as in GradMatch (arXiv:2103.00123): the row that agrees most with what is left joins,
    and all weights are fitted anew, to ``|w G - sum G|^2 + ridge * mean(|G_i|^2) * |w|^2``.
    """
    products = gradients @ gradients.T
    ridged = products + ridge * np.trace(products) / len(products) * np.eye(len(products))
    target, weights, chosen = products.sum(axis=1), np.zeros(len(products)), []
    for _ in range(nb_chosen):
        left = target - products @ weights
        left[chosen] = -np.inf
        if left.max() <= 0:
            break
        chosen.append(int(left.argmax()))
        factor = np.linalg.cholesky(ridged[np.ix_(chosen, chosen)])
        weights[chosen], _ = nnls(factor.T, np.linalg.solve(factor, target[chosen]))
    return weights


def resampled(weights: NDArray[np.float64], nb_drawn: int, generator: torch.Generator) -> Tensor:
    """Draw numbers, each its share of ``nb_drawn`` times, rounded up or down at random; in random order."""
    order = torch.randperm(len(weights), generator=generator).numpy()
    ends = np.cumsum(weights[order])
    places = (np.arange(nb_drawn) + float(torch.rand((), generator=generator))) * ends[-1] / nb_drawn
    drawn = torch.from_numpy(order[np.searchsorted(ends, places, side="right").clip(max=len(order) - 1)])
    return drawn[torch.randperm(nb_drawn, generator=generator)]


class Coresets(Turns):
    """Epochs of a part of all images: first in turns, later drawn by weights that are chosen anew now and then.

    Args:
        choose: Chooses.
        nb_warm: Epochs before the first choice.
        every: Epochs from one choice to the next.
        sizes: As :class:`Turns` takes them.
    """

    def __init__(self, choose: Choose, nb_warm: int, every: int, *sizes: int) -> None:
        super().__init__(*sizes)
        self.choose, self.nb_warm, self.every = choose, nb_warm, every
        self.weights: NDArray[np.float64] | None = None

    def set_epoch(self, number: int) -> None:
        """Choose anew, if it is time; epochs are numbered from 0."""
        if number >= self.nb_warm and (number - self.nb_warm) % self.every == 0:
            self.weights = self.choose()

    def epoch(self) -> Tensor:
        if self.weights is None:
            return super().epoch()
        return resampled(self.weights, self.nb_per_epoch, self.generator)


@dataclass(frozen=True)
class Subsets:
    """Training on a share of the images, after a first part of the epochs in which all are met in turns.

    An epoch has that share of the images, so that there are ``1 / share`` times as many of them.

    Args:
        share: Of the images.
        warm: First part of the epochs; published is 0.6 times the share of those with all images.
        nb_choices: How often it is chosen, by and by.
        is_matched: Whether gradients are matched, or images drawn at random, all of one weight.
    """

    share: float
    warm: float
    nb_choices: int
    is_matched: bool = True

    def __call__(self, trainer: OATTrainer, data: Dataset, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
        nb_images, generator = len(data.train.y), torch.Generator().manual_seed(recipe.seed)
        nb_warm = round(self.warm * recipe.nb_epochs)

        def choose() -> NDArray[np.float64]:
            parts = torch.randperm(nb_images, generator=generator)
            parts = parts[: len(parts) - len(parts) % _NB_TOGETHER].view(-1, _NB_TOGETHER)
            nb_chosen = round(self.share * len(parts))
            if self.is_matched:
                eps = trainer.method.eps
                gradients = gradients_of_parts(trainer.get_classifier(), data.train, eps, parts)
                by_part = matched(gradients.double().numpy(), nb_chosen)
            else:
                by_part = np.arange(len(parts)) < nb_chosen
            weights = np.zeros(nb_images)
            weights[parts.numpy()] = by_part[:, None]
            return weights

        every = max(1, (recipe.nb_epochs - nb_warm) // self.nb_choices)
        sizes = (nb_images, round(self.share * nb_images), recipe.batch_size, recipe.seed)
        return loader(data.train, Coresets(choose, nb_warm, every, *sizes))


# nothing was chosen; on held-out images of a fold of digits, seed 100, PGD-50, mean over lam 0.2 and 1: "oat" 72.7%,
# 65% of the epochs 70.2%, random halves 68.8%, coresets 67.9%
_SHARE, _WARM = 0.5, 0.3  # of the images, and of the time that all of them would take: 0.6 times the share
_EPOCHS = (_WARM + _SHARE * (1 - _WARM)) / _SHARE
_COST = _EPOCHS * _SHARE
_CODE = (Subsets, Coresets, Turns, loader, resampled)
_SOURCE = "arXiv:2112.00378"
_FEWER_EPOCHS = "65% of the epochs"


def _subsets(what: str, *code: Any, is_matched: bool) -> Neighbor:
    part = Subsets(_SHARE, _WARM / _COST, nb_choices=5, is_matched=is_matched)
    return Neighbor(what, _SOURCE, epochs=_EPOCHS, prepare=part, code=(*code, *_CODE), rival=_FEWER_EPOCHS)


NEIGHBORS = {
    "coresets": _subsets(
        "all images for 30% of the time, then halves that match gradients",
        head_gradients,
        gradients_of_parts,
        matched,
        is_matched=True,
    ),
    "random halves": _subsets("all images for 30% of the time, then random halves", is_matched=False),
    _FEWER_EPOCHS: Neighbor("all images, in the time of halves", _SOURCE, epochs=_COST),
}
