"""Convert a CNN of your own, and attack it with three attacks of ART at three settings of its dial.

python examples/own_network.py            # about a minute on two cores
python examples/own_network.py --smoke    # a few seconds, to see that it runs
"""

import argparse

from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent, SquareAttack
from torch import Tensor, nn, optim

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from art_oat.data import digits

EPS = 0.2  # Linf, images in [0, 1]


class YourNetwork(nn.Module):
    """Anything with norms: this one has two residual blocks with squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.blocks = nn.ModuleList([Block(24), Block(24)])
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        norms = [nn.BatchNorm2d(channels) for _ in range(2)]
        self.body = nn.Sequential(convolutions[0], norms[0], nn.ReLU(), convolutions[1], norms[1])
        self.gate = nn.Sequential(nn.Linear(channels, 6), nn.ReLU(), nn.Linear(6, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        change = self.body(x)
        return (x + change * self.gate(change.mean(dim=(2, 3)))[:, :, None, None]).relu()


def main(*, is_smoke: bool) -> None:
    data = digits()
    model = to_conditional(YourNetwork())
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    OATTrainer(classifier, attack=PGD(EPS, eps_step=EPS / 4)).fit(*data.train, nb_epochs=1 if is_smoke else 10)

    nb_images, max_iter = (8, 2) if is_smoke else (100, 20)
    x, y = data.test.x[:nb_images], data.test.y[:nb_images]
    print(f"{'lam':>5}{'clean':>8}{'PGD':>8}{'APGD':>8}{'Square':>8}")
    for lam in (0.0, 0.2, 1.0):
        view = classifier.at(lam)  # an ordinary PyTorchClassifier: every attack, metric and defense of ART takes it
        attacks = (
            ProjectedGradientDescent(view, eps=EPS, eps_step=EPS / 8, max_iter=max_iter, verbose=False),
            AutoProjectedGradientDescent(
                view, eps=EPS, eps_step=EPS / 8, max_iter=max_iter, nb_random_init=1, verbose=False
            ),
            SquareAttack(view, eps=EPS, max_iter=5 * max_iter, nb_restarts=1, verbose=False),
        )
        answers = [view.predict(x), *(view.predict(attack.generate(x, y)) for attack in attacks)]
        print(f"{lam:5g}" + "".join(f"{(scores.argmax(axis=1) == y).mean():8.1%}" for scores in answers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one epoch, eight images")
    main(is_smoke=parser.parse_args().smoke)
