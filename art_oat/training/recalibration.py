"""Running statistics of all norms, computed anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from art_oat.attacks import TensorAttack, bind, is_tensor_attack
from art_oat.checks import checked_seed
from art_oat.classifier import OATClassifier
from art_oat.contexts import evaluating
from art_oat.model import OATModel
from art_oat.network_kinds import check_model
from art_oat.training.batches import is_pair


def recalibrate(
    model: OATModel | OATClassifier, loader: Iterable[Any], *, attack: TensorAttack | None = None, seed: int = 0
) -> None:
    """Compute the running statistics of all norms anew, of every side and width, as averages over a loader.

    For weights that were averaged, changed, or trained in batches too small for statistics of their own. Weights do not
    change. The side of lam = 0 sees the inputs at lam = 0. The other one sees them at the trained lams above it, sample
    by sample in turn; with an attack, once more after it, as in training. Frozen norms, and others that no batch
    reaches, keep their statistics, and the model its mode.

    Args:
        model: A conditional network; or a classifier, whose preprocessing then comes first.
        loader: Gives batches ``x [N, ...]``, or pairs ``(x, y)`` with class indices ``y [N]``; tensors or arrays. It is
            read once.
        attack: An attack on tensors, such as :class:`~art_oat.PGD`, on the network as it was. Needs pairs, and a
            classifier for its clip values.
        seed: Of the draws of the attack, in ``[0, 2**32)``.

    Raises:
        TypeError: If ``model`` is neither, or ``attack`` no attack on tensors, or given without a classifier.
        ValueError: If the loader gives no batch, or none with labels where they are needed. After any error the
            statistics are what they were.
    """
    classifier = model if isinstance(model, OATClassifier) else None
    network = model if classifier is None else classifier.model
    check_model(network)
    seed = checked_seed(seed)
    if attack is None:
        batches = _inputs(loader, network, classifier)
    elif classifier is None or not is_tensor_attack(attack):
        raise TypeError("attack must be one on tensors, such as PGD(eps), and needs an OATClassifier to be bound to.")
    else:
        batches = _attacked_inputs(loader, classifier, attack, torch.Generator().manual_seed(seed))
    with _undone_on_error(network), evaluating(network):
        update_bn(batches, network)


@contextmanager
def _undone_on_error(network: OATModel) -> Iterator[None]:
    """Give norms that saw nothing, or all where the block fails, their statistics and momentum back."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    before = [(norm, norm.momentum, [buffer.clone() for buffer in norm.buffers(recurse=False)]) for norm in norms]
    is_done = False
    try:
        yield
        is_done = any(bool(norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None)
        if not is_done:
            raise ValueError("loader must give at least one batch, got none.")
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            if not is_done or not norm.num_batches_tracked:
                for buffer, value in zip(norm.buffers(recurse=False), buffers, strict=True):
                    buffer.copy_(value)
        network.refresh()


def _inputs(loader: Iterable[Any], network: OATModel, classifier: OATClassifier | None) -> Iterator[Tensor]:
    preprocess = nn.Identity() if classifier is None else classifier.preprocessed(nn.Identity(), is_training=True)
    for batch in loader:
        yield preprocess(_as_input(batch[0] if isinstance(batch, list | tuple) else batch, network))


def _as_input(x: Any, network: OATModel) -> Tensor:
    return torch.as_tensor(x).to(network.encoding.table)


def _attacked_inputs(
    loader: Iterable[Any], classifier: OATClassifier, attack: TensorAttack, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield clean inputs; let the side of the attacked ones see those in between."""
    network = classifier.model
    above = network.encoding.table.new_tensor([lam for lam in network.lambdas if lam > 0])
    subject = bind(attack, copy.deepcopy(classifier))
    preprocess = classifier.preprocessed(nn.Identity(), is_training=True)
    for batch in loader:
        if not is_pair(batch):
            raise ValueError(f"with an attack, loader must give pairs (x, y), got {type(batch).__name__}.")
        x, y = _as_input(batch[0], network), torch.as_tensor(batch[1]).to(network.encoding.table.device)
        yield preprocess(x)
        lam = above.repeat(len(x))[: len(x)]
        for width in network.widths if len(above) else ():
            x_adv = subject(x, y, lam, generator, width=width)
            with torch.no_grad():
                network(preprocess(x_adv), lam, width)
