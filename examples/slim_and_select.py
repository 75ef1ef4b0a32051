"""Train one network for every width, too; then choose by what you can spend, and ship the smaller network.

python examples/slim_and_select.py            # one to two minutes on two cores
python examples/slim_and_select.py --smoke    # a few seconds, to see that it runs
"""

import argparse
import statistics
from pathlib import Path

import torch
from torch import nn, optim

from art_oat import PGD, OATClassifier, OATTrainer, TradeoffCurve, fold, to_conditional
from art_oat.data import digits
from art_oat.evaluation import EvaluationOptions
from art_oat.models import SmallCNN
from art_oat.training import WarmupCosine

EPS = 0.2  # Linf, images in [0, 1]


def main(out: Path, *, is_smoke: bool) -> None:
    data = digits()
    model = to_conditional(SmallCNN(channels=(16, 32, 64)), widths=(0.5, 0.75, 1.0), input_shape=(1, 8, 8))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-3)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    trainer = OATTrainer(classifier, attack=PGD(EPS, eps_step=EPS / 4), seed=0)
    # every step trains one width at random, so three widths want three times the epochs
    trainer.fit(*data.train, nb_epochs=1 if is_smoke else 90, scheduler=WarmupCosine())

    attack = "pgd-5" if is_smoke else "pgd-50"
    options = EvaluationOptions(latency_batch_size=100)
    curve = TradeoffCurve.measure(classifier, *data.test, eps=EPS, attack=attack, options=options)
    print(curve.table())  # every lam at every width, with what the width costs
    curve.plot(out / "slim_and_select.png")

    # You may spend half the multiply-accumulates, and want nine tenths of the robustness that they can buy.
    max_macs = max(point.macs for point in curve.points) / 2
    affordable = [point for point in curve.points if point.macs <= max_macs]
    min_robust = 0.9 * max(point.robust for point in affordable)
    point = curve.select(min_robust=min_robust, max_macs=max_macs)
    print(f"\nmost accurate with {min_robust:.1%} under attack in {max_macs:,.0f} MACs: {point}")

    # Or you have so much time: what is measured on this machine, for batches of latency_batch_size.
    budget = statistics.median(point.latency_ms for point in curve.points)
    print(f"most accurate within {budget:.2f} ms: {curve.select(max_latency_ms=budget)}")
    print(f"most robust within {budget:.2f} ms: {curve.select(max_latency_ms=budget, threat=1)}")

    print(f"\nno other beats these in accuracy, robustness and MACs\n{curve.pareto(costs=['macs']).table()}")

    network = fold(model, point)  # an ordinary SmallCNN with fewer channels, without any dial
    answers = network(torch.from_numpy(data.test.x)).argmax(dim=1).numpy()
    expected = classifier.predict(data.test.x, lam=point.lam, width=point.width).argmax(axis=1)
    print(f"the folded network agrees with the trained one on {(answers == expected).mean():.1%} of the test images")
    networks = {"trained, with both dials": model, "full width": fold(model, width=1.0), "as chosen": network}
    for name, kind in networks.items():
        print(f"{sum(parameter.numel() for parameter in kind.parameters()):>8,} parameters: {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/slim_and_select"), help="folder for the picture")
    parser.add_argument("--smoke", action="store_true", help="one epoch, a weaker attack")
    arguments = parser.parse_args()
    main(arguments.out, is_smoke=arguments.smoke)
