"""Make a network that was trained without any attack robust, in an eighth of the epochs, at every setting of its dial.

python examples/fine_tune.py            # about half a minute on two cores
python examples/fine_tune.py --smoke    # a few seconds, to see that it runs
"""

import argparse

import torch
from torch import nn, optim
from torch.nn import functional as F

from art_oat import PGD, OATClassifier, OATTrainer, SlowStart, StratifiedSampling, TradeoffCurve, to_conditional
from art_oat.data import Dataset, digits
from art_oat.evaluation import EvaluationOptions
from art_oat.models import SmallCNN

EPS = 0.2  # Linf, images in [0, 1]
NB_EPOCHS = 64  # what training from scratch would take


def trained_naturally(data: Dataset, nb_epochs: int) -> nn.Module:
    """Stand in for the network that you have: a training loop without a trace of robustness."""
    torch.manual_seed(0)
    network = SmallCNN(channels=(16, 32, 64))
    optimizer = optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, epochs=nb_epochs, steps_per_epoch=10)
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    for _ in range(nb_epochs):
        for index in torch.randperm(len(x)).chunk(10):
            optimizer.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def measured(classifier: OATClassifier, data: Dataset) -> TradeoffCurve:
    x, y = data.test.x, data.test.y
    options = EvaluationOptions(verbose=False)
    return TradeoffCurve.measure(classifier, x, y, eps=EPS, attack="pgd-20", lambdas=(0, 0.2, 1), options=options)


def main(*, is_smoke: bool) -> None:
    data = digits()
    network = trained_naturally(data, 2 if is_smoke else 30)
    model = to_conditional(network)  # answers as the network did, at every lam
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    before = measured(classifier, data)

    more_of_one = StratifiedSampling({1.0: 10.0})  # of few epochs, most go where your network is farthest from
    trainer = OATTrainer(classifier, attack=PGD(EPS, eps_step=EPS / 4), sampling=more_of_one)
    nb_epochs = 1 if is_smoke else NB_EPOCHS // 8
    trainer.fit(*data.train, nb_epochs=nb_epochs, batch_size=16, scheduler=SlowStart())  # few epochs want many steps
    after = measured(classifier, data)

    print(f"{'lam':>5}{'clean, before':>16}{'after':>8}{'PGD-20, before':>17}{'after':>8}")
    for old, new in zip(before.points, after.points, strict=True):
        print(f"{new.lam:5g}{old.clean:16.1%}{new.clean:8.1%}{old.robust:17.1%}{new.robust:8.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="an epoch")
    main(is_smoke=parser.parse_args().smoke)
