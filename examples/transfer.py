"""Move one network from the digits 0-4 to the digits 5-9, with the features of every robustness; draw what that gives.

python examples/transfer.py            # about a minute on two cores; writes transfer.png
python examples/transfer.py --smoke    # a few seconds, to see that it runs

The same over three seeds, by AutoAttack, and from CIFAR-10: python -m benchmarks.transfer
"""

import argparse

import torch
from art.estimators.classification import PyTorchClassifier
from matplotlib.figure import Figure
from torch import nn, optim

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, evaluate, to_conditional
from art_oat.data import Split, digits
from art_oat.evaluation import EvaluationOptions
from art_oat.models import SmallCNN
from art_oat.transfer import LinearProbe, adapt

EPS = 0.1  # Linf, images in [0, 1]; the source is trained at twice that
LAMBDAS = (0.0, 0.1, 0.4, 1.0)


def of_classes(split: Split, first: int, last: int) -> Split:
    kept = (split.y >= first) & (split.y <= last)
    return Split(split.x[kept], split.y[kept] - first)


def trained_source(data: Split, nb_epochs: int) -> OATModel:
    model = to_conditional(SmallCNN(nb_classes=5))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 5, optimizer, clip_values=(0, 1))
    OATTrainer(classifier, attack=PGD(2 * EPS, eps_step=EPS / 2)).fit(*data, nb_epochs=nb_epochs, batch_size=64)
    return model


def trained_naturally(data: Split, nb_epochs: int) -> nn.Module:
    torch.manual_seed(0)
    classifier = as_classifier(SmallCNN(nb_classes=5), lr=0.1)
    classifier.fit(*data, nb_epochs=nb_epochs, batch_size=64)
    return classifier.model


def as_classifier(network: nn.Module, lr: float = 0.01) -> PyTorchClassifier:
    optimizer = optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 5, optimizer, clip_values=(0, 1))


def fixed_feature(source: nn.Module, lam: float | None, few: Split) -> PyTorchClassifier:
    network = adapt(source, nb_classes=5, protocol="fixed-feature", lam=lam)
    LinearProbe(network, weight_decay=1e-2).fit(*few)  # features are computed once
    return as_classifier(network)


def full_network(source: nn.Module, lam: float | None, few: Split, nb_epochs: int) -> PyTorchClassifier:
    torch.manual_seed(0)  # of the order of samples
    classifier = as_classifier(adapt(source, nb_classes=5, lam=lam))
    classifier.fit(*few, nb_epochs=nb_epochs, batch_size=10)
    return classifier


def accuracies(classifier: PyTorchClassifier, test: Split) -> tuple[float, float]:
    report = evaluate(classifier, *test, eps=EPS, attack="pgd-20", options=EvaluationOptions(verbose=False))
    return report.clean, report.robust


def draw(found: dict[str, list[tuple[float, float]]]) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, title, place in zip(figure.subplots(1, 2), ("clean", f"PGD-20, eps {EPS}"), (0, 1), strict=True):
        for name, values in found.items():
            shares = [value[place] for value in values]
            if len(values) > 1:
                axes.plot(LAMBDAS, shares, marker="o", label=name)
            else:
                axes.plot((0, 1), 2 * shares, linestyle="--", label=name)
        axes.set(xlabel="lam of the source", title=f"accuracy on digits 5-9, {title}", ylim=(0, 1))
        axes.legend(fontsize=8)
    figure.savefig("transfer.png", dpi=150)


def main(*, is_smoke: bool) -> None:
    data = digits()
    lower, nb_source_epochs = of_classes(data.train, 0, 4), 1 if is_smoke else 40
    source, natural = trained_source(lower, nb_source_epochs), trained_naturally(lower, nb_source_epochs)
    nb_epochs = 1 if is_smoke else 30
    known, test = (of_classes(split, 5, 9) for split in (data.train, data.test))
    few = Split(known.x[:50], known.y[:50])

    found = {
        "fixed features": [accuracies(fixed_feature(source, lam, few), test) for lam in LAMBDAS],
        "full network": [accuracies(full_network(source, lam, few, nb_epochs), test) for lam in LAMBDAS],
        "fixed features, natural": [accuracies(fixed_feature(natural, None, few), test)],
        "full network, natural": [accuracies(full_network(natural, None, few, nb_epochs), test)],
        "from scratch": [accuracies(full_network(SmallCNN(), None, few, nb_epochs), test)],
    }
    for name, values in found.items():
        for lam, (clean, robust) in zip(LAMBDAS if len(values) > 1 else ("",), values, strict=True):
            print(f"{name:>24}{lam!s:>5}{clean:8.1%} clean{robust:8.1%} after PGD-20")
    draw(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="an epoch")
    main(is_smoke=parser.parse_args().smoke)
