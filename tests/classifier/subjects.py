"""What classifiers are tried on, and all of one that a call must leave alone."""

import copy
import pickle

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch.utils import _pytree

from art_oat import OATClassifier, OperatingPoint, fold
from tests.networks import images, labels

X = images(12, torch.float32).numpy()
Y = labels(12).numpy()
ONE_HOT = np.eye(5, dtype=np.float32)[Y]
LAMS = np.linspace(0, 1, 12)
COPIES = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "deepcopy": copy.deepcopy}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def plain(classifier: OATClassifier, lam: float, width: float = 1.0, **options: object) -> PyTorchClassifier:
    """The same network at one point, as a classifier of ART's own that knows nothing of lam or width."""
    network = fold(classifier.model, OperatingPoint(lam, width))
    arguments = {"clip_values": (0, 1), **options}
    return PyTorchClassifier(network, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, **arguments)


def norm_of(difference: torch.Tensor, p: int) -> torch.Tensor:
    return torch.linalg.vector_norm(difference, p)


def snapshot(classifier: OATClassifier) -> dict:
    """All of a classifier, and of torch's generator, that a call must leave alone, as plain values."""
    model, optimizer = classifier.model, classifier.optimizer
    modules = [part for network in (model, model.pinned(0.0), model.pinned(0.3)) for part in network.modules()]
    found = {
        "weights and statistics": dict(model.state_dict()),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "mode": [module.training for module in modules],
        "hooks": [[len(getattr(module, name)) for name in _HOOKS] for module in modules],
        "optimizer": optimizer and optimizer.state_dict(),
        "point": tuple(model.default_point),
        "loss": classifier.loss.reduction,
        "generator": torch.get_rng_state(),
    }
    return _pytree.tree_map(lambda it: it.tolist() if isinstance(it, torch.Tensor) else it, found)
