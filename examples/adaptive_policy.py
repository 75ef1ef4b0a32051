"""Turn the dial while it runs: a detector says how much of a batch is attacked, a policy says at which lam to answer.

python examples/adaptive_policy.py            # a minute or two on one core; writes adaptive_policy.png
python examples/adaptive_policy.py --smoke    # a few seconds, to see that it runs

This is no defense. Accuracy in percent on 600 attacked images between 600 and 600 that are not, PGD-20, seed 0:

                     | before | he attacks lam 0 | he knows the policy | he knows the detector, too | after
lam 0                |   90.3 |              0.2 |                 0.2 |                        0.2 |  89.0
lam 0.3              |   89.5 |             25.0 |                13.7 |                       13.5 |  88.8
lam 1                |   86.3 |             41.8 |                20.2 |                       20.0 |  84.0
policy               |   89.7 |             41.8 |                20.2 |                        8.7 |  89.7
policy with a floor  |   89.5 |             41.8 |                20.2 |                       13.7 |  88.8

Where the detector sees the attack, the policy has the clean accuracy of small lams in calm, and is lam 1 under attack.
Who fools the detector meets the point for calm: there the policy is worse than lam 1, and with a floor what the fixed
point of that floor is. The detector, trained on FGSM alone, is fooled in every batch by an attack that tries to.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.detector.evasion import BinaryInputDetector
from art.estimators.classification import PyTorchClassifier
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.special import softmax
from torch import Tensor, nn, optim
from torch.nn import functional as F

from art_oat import AdaptivePolicy, Method, OATClassifier, OATTrainer, StratifiedSampling, TradeoffCurve, to_conditional
from art_oat.data import Split, textured_digits
from art_oat.evaluation import EvaluationOptions
from art_oat.models import SmallCNN
from art_oat.training import WarmupCosine

EPS = 0.125  # Linf, images in [0, 1]
LAMBDAS = (0.0, 0.02, 0.1, 0.3, 1.0)
ATTACKERS = ("attacks lam 0", "knows the policy", "knows the detector, too")

Floats = np.ndarray
Decide = Callable[[Floats], tuple[float, float]]
"""Says of a batch which share is thought to be attacked, and at which lam to answer."""


class Answer(NamedTuple):
    """What was thought of a batch, and how much of it was right."""

    threat: float
    lam: float
    accuracy: float


def trained(data: Split, nb_epochs: int) -> OATClassifier:
    torch.manual_seed(0)  # of the first weights
    model = to_conditional(SmallCNN(3, channels=(16, 32, 64)), lambdas=LAMBDAS)
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (3, 16, 16), 10, optimizer, clip_values=(0, 1))
    method = Method(attack="pgd-3", eps=EPS, sampling=StratifiedSampling({1.0: 4.0}))
    OATTrainer(classifier, method, seed=0).fit(*data, nb_epochs=nb_epochs, scheduler=WarmupCosine())
    return classifier


def fgsm(classifier: OATClassifier, data: Split) -> Floats:
    """Attack images by one step of ART, a fifth of them at each lam: what the detector learns from."""
    x_adv = data.x.copy()
    for number, lam in enumerate(LAMBDAS):
        part = slice(number, None, len(LAMBDAS))
        x_adv[part] = FastGradientMethod(classifier.at(lam), eps=EPS).generate(data.x[part], data.y[part])
    return x_adv


def trained_detector(classifier: OATClassifier, data: Split, nb_epochs: int) -> BinaryInputDetector:
    torch.manual_seed(0)
    network = SmallCNN(3, nb_classes=2, channels=(16, 32, 64))
    optimizer = optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    judge = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 16, 16), 2, optimizer, clip_values=(0, 1))
    detector = BinaryInputDetector(judge)
    is_attacked = np.repeat([0, 1], len(data.x))
    detector.fit(np.concatenate([data.x, fgsm(classifier, data)]), is_attacked, nb_epochs=nb_epochs, verbose=False)
    network.eval()
    return detector


def scores_of(detector: BinaryInputDetector, x: Floats) -> Floats:
    """Return how probable the detector finds it that each image is attacked."""
    report, _flags = detector.detect(x)
    return softmax(report["predictions"], axis=1)[:, 1]


def fixed(lam: float) -> Decide:
    return lambda _: (0.0, lam)


def adaptive(policy: AdaptivePolicy, detector: BinaryInputDetector) -> Decide:
    def decide(x: Floats) -> tuple[float, float]:
        threat = policy.share(scores_of(detector, x))
        return threat, policy.point(threat=threat).lam

    return decide


def pgd(gain: Callable[[Tensor], Tensor], x: Floats, nb_steps: int) -> Floats:
    """Climb what an attacker gains, within eps of the images."""
    start, generator = torch.from_numpy(x), torch.Generator().manual_seed(0)
    x_adv = (start + EPS * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
    for _ in range(nb_steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(gain(x_adv), x_adv)
        x_adv = x_adv.detach() + EPS / 8 * gradient.sign()
        x_adv = (start + (x_adv - start).clamp(-EPS, EPS)).clamp(0, 1)
    return x_adv.numpy()


def attacked(classifier: OATClassifier, judge: nn.Module, batch: Split, nb_steps: int) -> dict[str, list[Floats]]:
    """Return what each attacker may send in place of a batch; whoever knows more has more to choose from."""
    y, calm = torch.from_numpy(batch.y), torch.zeros(len(batch.y), dtype=torch.int64)

    def versions(weight: float) -> list[Floats]:
        """Return the batch attacked at every lam, while the detector is fooled with some weight."""
        found = []
        for lam in LAMBDAS:
            network = classifier.at(lam).as_module()

            def gain(x: Tensor, network: nn.Module = network) -> Tensor:
                seen = F.cross_entropy(judge(x), calm, reduction="sum") if weight else 0.0
                return F.cross_entropy(network(x), y, reduction="sum") - weight * seen

            found.append(pgd(gain, batch.x, nb_steps))
        return found

    plain, hidden = versions(0.0), versions(1.0)
    return dict(zip(ATTACKERS, ([plain[0]], plain, plain + hidden), strict=True))


def answer(classifier: OATClassifier, decide: Decide, x: Floats, y: np.ndarray) -> Answer:
    threat, lam = decide(x)
    return Answer(threat, lam, float((classifier.predict(x, lam=lam).argmax(axis=1) == y).mean()))


def run_stream(
    classifier: OATClassifier, decide: Decide, batches: list[Split], sent: list[dict[str, list[Floats]] | None]
) -> dict[str, list[Answer]]:
    """Answer every batch, under each attacker, who sends of what he may what is answered worst."""
    found: dict[str, list[Answer]] = {attacker: [] for attacker in ATTACKERS}
    for batch, versions in zip(batches, sent, strict=True):
        for attacker, answers in found.items():
            candidates = [batch.x] if versions is None else versions[attacker]
            tried = [answer(classifier, decide, x, batch.y) for x in candidates]
            answers.append(min(tried, key=lambda it: it.accuracy))
    return found


def table(found: Mapping[str, dict[str, list[Answer]]], third: int) -> str:
    """Return accuracies before, under and after the attack, a row for each way to answer."""
    columns = ["before", *(f"he {attacker}" for attacker in ATTACKERS), "after"]
    lines = [" | ".join([f"{'':20}", *columns])]
    for name, streams in found.items():
        calm = streams[ATTACKERS[0]]
        parts = [calm[:third], *(streams[it][third : 2 * third] for it in ATTACKERS), calm[2 * third :]]
        shares = [np.mean([it.accuracy for it in part]) for part in parts]
        cells = [f"{share:.1%}".rjust(len(column)) for share, column in zip(shares, columns, strict=True)]
        lines.append(" | ".join([f"{name:20}", *cells]))
    return "\n".join(lines)


STYLES: Mapping[str, tuple[str, str, float]] = {
    "lam 0": ("#9ad0f0", "-", 6),
    "lam 1": ("#f2c266", "-", 6),
    "policy": ("black", "-", 1.5),
    "policy with a floor": ("#d55e00", "--", 1.8),
}
"""Color, line and width, of Okabe and Ito, for every kind of color vision; the broad ones are light and lie below."""


def draw(found: Mapping[str, dict[str, list[Answer]]], third: int, path: Path) -> None:
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(2, 1))
    batches = range(1, 3 * third + 1)
    for (upper, lower), attacker in zip(axes.T, ATTACKERS[1:], strict=True):
        for name, (color, line, width) in STYLES.items():
            answers = found[name][attacker]
            upper.plot(batches, [it.accuracy for it in answers], line, color=color, linewidth=width, label=name)
            if name not in ("lam 0", "lam 1"):
                lams = [it.lam for it in answers]
                lower.step(batches, lams, line, color=color, linewidth=width, where="mid")
        threats = [it.threat for it in found["policy"][attacker]]
        lower.plot(batches, threats, "o", color="#888888", markersize=4, label="threat, as estimated")
        for part in (upper, lower):
            part.axvspan(third + 0.5, 2 * third + 0.5, color="#888888", alpha=0.12)
            part.grid(alpha=0.25)
        upper.set_title(f"The attacker {attacker}")
        lower.set_xlabel("batch of 100 images (shaded: all of them attacked)")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set(ylabel="accuracy", ylim=(-0.03, 1.03))
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[1, 0].set(ylim=(-0.08, 1.08))
    axes[1, 0].set_ylabel("lam, and threat")
    figure.suptitle(f"A small CNN on textured digits, PGD at eps {EPS:g} (Linf), batch by batch", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    threat = axes[1, 0].get_legend_handles_labels()[0][-1]
    figure.legend(
        [*handles, threat], [*labels, "threat, as estimated"], loc="outside lower center", ncols=5, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(out: Path, *, is_smoke: bool) -> None:
    data = textured_digits()
    size, third, nb_steps = (20, 1, 2) if is_smoke else (100, 6, 20)
    train = Split(*(part[::24] if is_smoke else part[::2] for part in data.train))  # five patches for each digit
    classifier = trained(train, 1 if is_smoke else 12)
    detector = trained_detector(classifier, train, 1 if is_smoke else 4)

    options = EvaluationOptions(nb_robust=40 if is_smoke else 300, verbose=False)
    curve = TradeoffCurve.measure(classifier, *data.validation, eps=EPS, attack=f"pgd-{nb_steps}", options=options)
    print(curve.table())

    # What the detector says of images of which it is known: so its false alarms do not count as a threat.
    known = data.validation.x, fgsm(classifier, data.validation)
    means = tuple(float(scores_of(detector, x).mean()) for x in known)
    print(f"\nmean score of the detector: {means[0]:.2f} of clean images, {means[1]:.2f} of those attacked by FGSM")
    floor = max(point.robust for point in curve.points) / 2
    policies = {
        "policy": AdaptivePolicy(curve, mean_scores=means),
        "policy with a floor": AdaptivePolicy(curve, mean_scores=means, min_robust=floor),
    }
    for name, policy in policies.items():
        steps = ", ".join(f"from threat {threat:.2f} on lam {at.lam:g}" for threat, at in policy.steps())
        print(f"{name} (at least {policy.min_robust:.0%} robust): {steps}")

    order = np.random.default_rng(0).permutation(len(data.test.x))[: 3 * third * size]
    batches = [Split(data.test.x[part], data.test.y[part]) for part in np.split(order, 3 * third)]
    is_attacked = [third <= number < 2 * third for number in range(3 * third)]
    judge = detector.detector.model
    sent = [
        attacked(classifier, judge, batch, nb_steps) if it else None
        for batch, it in zip(batches, is_attacked, strict=True)
    ]
    ways = {f"lam {lam:g}": fixed(lam) for lam in (0.0, 0.3, 1.0)}
    ways |= {name: adaptive(policy, detector) for name, policy in policies.items()}
    found = {name: run_stream(classifier, decide, batches, sent) for name, decide in ways.items()}
    print(f"\naccuracy before, under and after the attack\n{table(found, third)}")
    draw(found, third, out / "adaptive_policy.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive_policy"), help="folder for the picture")
    parser.add_argument("--smoke", action="store_true", help="a few images, one epoch, weaker attacks")
    arguments = parser.parse_args()
    main(arguments.out, is_smoke=arguments.smoke)
