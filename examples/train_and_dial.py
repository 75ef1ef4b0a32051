"""Train one network, then turn its dial: measure every lam, and choose the one that keeps what you need.

python examples/train_and_dial.py            # two to three minutes on two cores
python examples/train_and_dial.py --smoke    # a few seconds, to see that it runs
"""

import argparse
from pathlib import Path

from torch import nn, optim

from art_oat import PGD, OATClassifier, OATTrainer, TradeoffCurve, fold, save_model, to_conditional
from art_oat.data import digits
from art_oat.models import SmallCNN
from art_oat.training import RestoreBest, Validation, WarmupCosine

EPS = 0.2  # Linf, images in [0, 1]


def main(out: Path, *, is_smoke: bool) -> None:
    data = digits()
    model = to_conditional(SmallCNN(channels=(16, 32, 64)))  # the six published lams
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-3)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))

    trainer = OATTrainer(classifier, attack=PGD(EPS, eps_step=EPS / 4), seed=0)
    trainer.fit(
        *data.train,
        validation_data=Validation(*data.validation, interval=5),
        nb_epochs=1 if is_smoke else 40,
        scheduler=WarmupCosine(),
        callbacks=[RestoreBest()],
    )
    print(f"kept epoch {trainer.best_epoch}, the best trade-off on validation images")

    curve = TradeoffCurve.measure(classifier, *data.test, eps=EPS, attack="pgd-5" if is_smoke else "pgd-50")
    print(curve.table())
    curve.plot(out / "train_and_dial.png")

    best = max(point.robust for point in curve.points)
    point = curve.select(min_robust=0.9 * best)  # most accurate among those that keep nine tenths of the best
    print(f"lam {point.lam:g} is the most accurate that keeps {0.9 * best:.1%} under attack")
    classifier.lam = point.lam  # from here on the default
    print("first answers:", classifier.predict(data.test.x[:10]).argmax(axis=1))

    save_model(model, out)  # every lam; load_model(out, SmallCNN(channels=(16, 32, 64))) reads it
    network = fold(model, point)  # this lam alone, an ordinary SmallCNN
    print(f"{sum(p.numel() for p in network.parameters())} parameters to ship, in {type(network).__name__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/train_and_dial"), help="folder for weights and picture")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    arguments = parser.parse_args()
    main(arguments.out, is_smoke=arguments.smoke)
