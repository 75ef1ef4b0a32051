"""Make images without labels count: a naturally trained network labels them, and the dial is trained on all of them.

python examples/self_training.py            # some two minutes on two cores
python examples/self_training.py --smoke    # a few seconds, to see that it runs

Robust self-training (Carmon et al. 2019, arXiv:1905.13736): robustness wants more images than accuracy does, and their
labels may be those of a network.
"""

import argparse

import numpy as np
import torch
from torch import nn, optim

from art_oat import OATClassifier, OATTrainer, OneCycle, TradeoffCurve, to_conditional
from art_oat.data import Split, digits
from art_oat.evaluation import EvaluationOptions
from art_oat.models import SmallCNN

EPS = 0.2  # Linf, images in [0, 1]
NB_LABELED = 300  # of 1,212


def trained(images: Split, nb_shown: int, lambdas: tuple[float, ...] = (0, 0.2, 1)) -> OATClassifier:
    """Train until so many images were shown, however many there are; by lam 0 alone without an attack."""
    torch.manual_seed(0)
    model = to_conditional(SmallCNN(channels=(16, 32, 64)), lambdas=lambdas)
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    nb_epochs = max(1, round(nb_shown / len(images.y)))
    OATTrainer(classifier, eps=EPS).fit(*images, batch_size=128, nb_epochs=nb_epochs, scheduler=OneCycle())
    return classifier


def main(*, is_smoke: bool) -> None:
    data, nb_shown = digits(), 500 if is_smoke else 64_000
    labeled = Split(*(it[:NB_LABELED] for it in data.train))
    without_labels = data.train.x[NB_LABELED:]

    teacher = trained(labeled, nb_shown, lambdas=(0,))
    guessed = teacher.predict(without_labels, lam=0).argmax(axis=1)
    right = np.mean(guessed == data.train.y[NB_LABELED:])
    print(f"The teacher guesses {right:.1%} of {len(guessed)} labels; here they are known, elsewhere this is not.")
    every = Split(np.concatenate([labeled.x, without_labels]), np.concatenate([labeled.y, guessed]))

    print(f"{'trained on':>22}{'lam':>5}{'clean':>8}{'AutoAttack':>12}")
    for name, images in {f"{NB_LABELED} with labels": labeled, "all, labels guessed": every}.items():
        curve = TradeoffCurve.measure(
            trained(images, nb_shown),
            *(it[: 4 if is_smoke else 100] for it in data.test),
            eps=EPS,
            attack="autoattack",
            options=EvaluationOptions(verbose=False),
        )
        for point in curve.points:
            print(f"{name:>22}{point.lam:5g}{point.clean:8.1%}{point.robust:12.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    main(is_smoke=parser.parse_args().smoke)
