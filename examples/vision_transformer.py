"""Train a vision transformer as such networks want it: AdamW, a rate and a radius that grow, clipped gradients.

python examples/vision_transformer.py            # about a minute on two cores
python examples/vision_transformer.py --smoke    # a few seconds, to see that it runs
"""

import argparse

from torch import nn, optim

from art_oat import Method, OATClassifier, OATTrainer, evaluate, fold, to_conditional
from art_oat.data import digits
from art_oat.models import network_named
from art_oat.training import WarmupCosine, parameter_groups

EPS = 0.2  # Linf, images in [0, 1]


def main(*, is_smoke: bool) -> None:
    data = digits()
    # or one of timm ("timm:vit_tiny_patch16_224"), or one of transformers in art_oat.models.Logits
    network = network_named("vit-32-2" if is_smoke else "vit-64-4", in_channels=1, image_size=(8, 8))
    model = to_conditional(network, lambdas=(0, 0.2, 1))
    print(f"{model.overhead:.3f} times the parameters while it is trained")
    optimizer = optim.AdamW(parameter_groups(model, 0.05), lr=2e-3)  # norms, biases and positions do not decay
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    method = Method.dial(eps=EPS, eps_step=EPS / 4, eps_warmup=0.3, clip_grad_norm=1.0)
    nb_epochs = 2 if is_smoke else 12
    OATTrainer(classifier, method).fit(
        *data.train, batch_size=64, nb_epochs=nb_epochs, scheduler=WarmupCosine(warmup=0.1)
    )

    nb_images = 10 if is_smoke else 200
    x, y = data.test.x[:nb_images], data.test.y[:nb_images]
    for lam in model.lambdas:
        report = evaluate(classifier, x, y, eps=EPS, attack="pgd-2" if is_smoke else "pgd-50", lam=lam)
        print(f"lam {lam:g}: {report.clean:.1%} clean, {report.robust:.1%} under attack")
    shipped = fold(model, lam=1.0)
    print(f"To ship: a {type(shipped).__name__} of {sum(it.numel() for it in shipped.parameters())} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two epochs of a smaller network, ten images")
    main(is_smoke=parser.parse_args().smoke)
