"""Train with an attack of torchattacks, and judge the result with another one, and with AutoAttack.

    python examples/torchattacks_trainer.py            # about a minute on two cores
    python examples/torchattacks_trainer.py --smoke    # a few seconds, to see that it runs

Needs torchattacks: pip install "art-oat[torchattacks]".
"""

import argparse

import torch
import torchattacks
from torch import nn, optim

from art_oat import AutoAttack, OATClassifier, OATTrainer, to_conditional
from art_oat.data import digits
from art_oat.models import SmallCNN

EPS = 0.2  # Linf, images in [0, 1]


def main(*, is_smoke: bool) -> None:
    data = digits()
    model = to_conditional(SmallCNN(channels=(16, 32, 64)))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))

    # The trainer copies the attack and aims the copies at the lam of each sample; this object stays as it is.
    attack = torchattacks.MIFGSM(classifier.at(1.0).as_module(), eps=EPS, alpha=EPS / 4, steps=7)
    OATTrainer(classifier, attack=attack).fit(*data.train, nb_epochs=1 if is_smoke else 10)

    nb_images = 8 if is_smoke else 100
    x, y = (torch.from_numpy(part[:nb_images]) for part in data.test)
    print(f"{'lam':>5}{'clean':>8}{'PGD':>8}{'AutoAttack':>12}")
    for lam in (0.0, 0.2, 1.0):
        network = classifier.at(lam).as_module()  # a torch module in evaluation mode, preprocessing included
        steps = 2 if is_smoke else 20
        pgd = torchattacks.PGD(network, eps=EPS, alpha=EPS / 8, steps=steps)(x, y)
        shown = [x, pgd] if is_smoke else [x, pgd, AutoAttack(EPS)(network, x, y, clip_values=(0, 1))]
        shares = [float((network(images).argmax(dim=1) == y).float().mean()) for images in shown]
        print(f"{lam:5g}" + "".join(f"{share:>9.1%}" for share in shares))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one epoch, eight images, no AutoAttack")
    main(is_smoke=parser.parse_args().smoke)
