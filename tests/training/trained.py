"""What tests of training share: few samples, a cheap attack, a classifier of any network, and its state."""

import copy

import torch
from torch import nn

from art_oat import PGD, OATClassifier, OATModel
from tests.networks import images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
ATTACK = PGD(eps=0.1, nb_steps=2)


def classifier_of(model: OATModel, learning_rate: float = 0.1, **options: object) -> OATClassifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    arguments = {"input_shape": (1, 6, 6), "nb_classes": 5, "clip_values": (0, 1), **options}
    return OATClassifier(model, nn.CrossEntropyLoss(), optimizer=optimizer, **arguments)  # type: ignore[arg-type]


def state(classifier: OATClassifier) -> dict[str, torch.Tensor]:
    return copy.deepcopy(classifier.model.state_dict())


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)
