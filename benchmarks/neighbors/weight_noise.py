"""FLOAT: weights take noise in the measure of lam, in place of FiLM (Kundu et al., arXiv:2204.00426)."""

import itertools

import torch
from torch import Tensor, nn

from art_oat import OATTrainer
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from benchmarks.neighbors.neighbor import Neighbor
from benchmarks.weight_dial import AtLams, Direction, WeightDial, dial_weights

_START = 0.25  # of the factor, as in parametric noise injection (arXiv:1811.09310)


class Noise(Direction):
    """``D = alpha * std(W) * eta``: one normal draw, kept with the weights, and a factor that is learned.

    Published noise is drawn anew in every pass; this one folds into the weight of a plain convolution.
    """

    eta: Tensor

    def __init__(self, conv: nn.Conv2d, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        eta = torch.randn(conv.weight.shape, generator=generator) * conv.weight.detach().std().cpu()
        self.register_buffer("eta", eta.to(conv.weight))
        self.alpha = nn.Parameter(conv.weight.new_full((), _START))

    def weight(self) -> Tensor:
        return self.alpha * self.eta


def add_noise(trainer: OATTrainer, data: Dataset, _: Recipe) -> Dataset:
    """Let every convolution take noise; factors do not decay."""
    model = trainer.classifier.model
    seeds = itertools.count()
    new = dial_weights(model, lambda conv: Noise(conv, next(seeds)))
    trainer.classifier.optimizer.add_param_group({"params": new, "weight_decay": 0.0})
    return data


_SOURCE = "arXiv:2204.00426"
_NOISE = {"source": _SOURCE, "prepare": add_noise, "code": (Noise, add_noise, WeightDial, AtLams, dial_weights)}
NEIGHBORS = {
    "weight noise": Neighbor("noise on weights in the measure of lam, no FiLM", recipe={"film": None}, **_NOISE),
    "weight noise and FiLM": Neighbor("noise on weights in the measure of lam", **_NOISE),
    "no FiLM": Neighbor("dual norms alone depend on lam", _SOURCE, {"film": None}),
}
