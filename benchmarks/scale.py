"""What training over processes costs, and where it stops to scale: on paper, from measured FLOPs and messages.

    python -m benchmarks.scale    # 4 minutes on one core; changes the tables of docs/scale.md, too

Measured: the FLOPs of whole steps, by torch's formulas, and every message of a step of two processes (gloo). All that
is said of time and money is computed from that by ``scale_model.py``, from the figures of machines in ``cluster.py``.
No GPU was used.

``flops``: of steps of two samples, one of them attacked, and of a clean epoch's, which is linear in samples: twice the
samples are tried, too. ``networks`` of one lam have no FiLM; that of lam 1 has the step of Madry et al. 2018, without
the clean pass that ours has for all samples. "checkpointed" recomputes the activations of each block.

``cost``: 100 epochs on ImageNet (1,281,167 images) on 8 GPUs in batches of 1024, every epoch with attack. ``networks``
are one for lam 1, two for 0 and 1, or one for each of the six lams.

``efficiency``: of n GPUs, the time of one over n times theirs ("strong": the joint batch is the same), or over theirs
("weak": 128 samples on each).
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from art_oat.attacks import NFGSM, TensorAttack
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.models import ConvNeXt, SmallCNN, WideResNet, resnet18
from art_oat.models.convnext import ConvNeXtBlock
from benchmarks.cluster import A100, FABRICS, H100, UTILIZATIONS, Accelerator
from benchmarks.cost import arithmetic_of
from benchmarks.exchange import Message, exchanged
from benchmarks.scale_model import Cluster, Times, Work, nb_attacked
from benchmarks.scale_page import plot, write_tables
from benchmarks.steps import step_for
from benchmarks.study import Found, run
from benchmarks.tables import DOCS, Row

EPS = 4 / 255
NB_IMAGES, NB_EPOCHS, BATCH_SIZE, NB_GPUS = 1_281_167, 100, 1024, 8
SIZES = (8, 16, 32, 64, 128, 256)
SCALINGS = {"weak, 128 per GPU": 128, "strong, 4096": 4096, "strong, 1024": 1024}
ITS_OWN, ALL = "its own", "all"
WAYS = ((ALL, "own"), (ITS_OWN, "own"), (ITS_OWN, "joint"))
"""What each process loads, and whose samples batch norms see."""
NB_BYTES = 1  # of a value of an image, as uint8


def apgd_2(
    network: nn.Module, x: Tensor, y: Tensor, *, clip_values: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Take the passes of APGD-2 in training (Croce and Hein's ``apgd_train``): two gradients, and one to choose."""
    x_adv = PGD(EPS, nb_steps=2)(network, x, y, clip_values=clip_values, generator=generator)
    with torch.no_grad():
        network(x_adv)
    return x_adv


ATTACKS: dict[str, TensorAttack] = {"n-fgsm": NFGSM(EPS), "apgd-2": apgd_2, "pgd-7": PGD(EPS)}


class Checkpointed(nn.Module):
    """A block whose activations are computed again."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


def convnext_t(*, is_checkpointed: bool = False) -> ConvNeXt:
    """Return ConvNeXt-T (Liu et al. 2022), but for its layer scale."""
    network = ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), nb_classes=1000, patch_size=4)
    for stage in network.stages if is_checkpointed else ():
        for name, part in stage.named_children():
            if isinstance(part, ConvNeXtBlock):
                stage.register_module(name, Checkpointed(part))
    return network


@dataclass(frozen=True)
class Subject:
    """A network, and what it is trained on."""

    name: str
    build: Callable[[], nn.Module]
    side: int
    nb_classes: int

    def trainer(
        self,
        attack: str,
        lambdas: Sequence[float] = DEFAULT_LAMBDAS,
        *,
        side: int | None = None,
        sync_norms: bool = False,
    ) -> OATTrainer:
        """Return what trains it; a single lam goes without FiLM."""
        shape = (3, side or self.side, side or self.side)
        film_on = () if len(lambdas) == 1 else None
        model = to_conditional(self.build(), lambdas, film_on=film_on, input_shape=shape)
        optimizer = optim.AdamW(model.parameters(), foreach=True)  # as on a GPU: what is called counts
        loss = nn.CrossEntropyLoss()
        classifier = OATClassifier(model, loss, shape, self.nb_classes, optimizer, clip_values=(0, 1))
        return OATTrainer(classifier, attack=ATTACKS[attack], sync_norms=sync_norms)

    def batch(self, nb_samples: int, side: int | None = None) -> tuple[Tensor, Tensor]:
        side = side or self.side
        return torch.rand(nb_samples, 3, side, side), torch.randint(self.nb_classes, (nb_samples,))


CONVNEXT = Subject("convnext-t", convnext_t, 224, 1000)
CHECKPOINTED = Subject("convnext-t, checkpointed", partial(convnext_t, is_checkpointed=True), 224, 1000)
WRN, RESNET = Subject("wrn-28-10", partial(WideResNet, 28, 10), 32, 10), Subject("resnet-18", resnet18, 32, 10)
TINY = Subject("tiny", partial(SmallCNN, 3), 32, 10)
SCALED = ((CONVNEXT, "n-fgsm"), (CONVNEXT, "apgd-2"), (WRN, "pgd-7"), (RESNET, "n-fgsm"))


def work_of(subject: Subject, attack: str) -> Work:
    """Measure the arithmetic of a step of the six lams."""
    step, batch = step_for(subject.trainer(attack)), subject.batch(2)
    whole = arithmetic_of(partial(step, *batch))
    step.start_epoch(2, is_clean=True)
    clean = arithmetic_of(partial(step, *batch)).flops / 2
    return Work(clean, whole.flops - 2 * clean, whole.nb_calls, NB_BYTES * batch[0][0].numel())


def madry_flops(subject: Subject, attack: str) -> int:
    """Measure a sample of a step on attacked inputs alone."""
    network, (x, y) = subject.build(), subject.batch(1)

    def step() -> None:
        generator = torch.Generator().manual_seed(0)
        x_adv = ATTACKS[attack](network.eval(), x, y, clip_values=(0, 1), generator=generator)
        F.cross_entropy(network.train()(x_adv), y).backward()

    return arithmetic_of(step).flops


def flops_rows(works: Mapping[tuple[Subject, str], Work]) -> Iterator[Row]:
    for (subject, attack), work in works.items():
        share = nb_attacked(BATCH_SIZE) / BATCH_SIZE
        yield {
            "network": subject.name,
            "attack": attack,
            "GFLOP, clean": f"{work.clean / 1e9:.4g}",
            "GFLOP, attacked": f"{work.attacked / 1e9:.4g}",
            "GFLOP per image": f"{work.flops(1, share) / 1e9:.4g}",
            "calls per step": work.nb_calls,
        }


def dedicated_flops(subject: Subject, attack: str) -> dict[str, float]:
    """Return FLOPs per image of networks of one lam: of all of those that are compared with, together."""
    trainer = partial(subject.trainer, attack)
    plain = arithmetic_of(partial(step_for(trainer([0.0])), *subject.batch(1))).flops
    between = arithmetic_of(partial(step_for(trainer([0.5])), *subject.batch(1))).flops
    madry = madry_flops(subject, attack)
    nb_between = len(DEFAULT_LAMBDAS) - 2
    return {"1 network": madry, "2 networks": plain + madry, "6 networks": plain + nb_between * between + madry}


def cost_rows(trained: Mapping[tuple[str, str], float]) -> Iterator[Row]:
    """Say what trainings cost that need so many FLOPs per image; by attack, and by what is trained."""
    for (attack, what), flops in trained.items():
        for accelerator, utilization in product((H100, A100), UTILIZATIONS):
            yield (
                {"attack": attack, "what": what, "GFLOP per image": f"{flops / 1e9:.4g}"}
                | cost_row(flops, accelerator, utilization)
                | {"times OAT": f"{flops / trained[attack, 'OAT']:.2f}"}
            )


def cost_row(flops: float, accelerator: Accelerator, utilization: float) -> Row:
    rate = NB_GPUS * accelerator.peak * utilization / flops
    hours = NB_EPOCHS * NB_IMAGES / rate / 3600
    low, high = (price * NB_GPUS * hours for price in accelerator.dollars)
    return {
        "accelerator": accelerator.name,
        "utilization": utilization,
        "images/s": f"{rate:.0f}",
        "hours": f"{hours:.2f}",
        "GPU-hours": f"{NB_GPUS * hours:.1f}",
        "dollars from": f"{low:.0f}",
        "dollars to": f"{high:.0f}",
    }


def train(subject: Subject, loads: str, sync_norms: bool, side: int, nb_steps: int) -> None:
    """Take steps on 12 samples in two processes; what is sent depends on no size of an image."""
    torch.manual_seed(0)
    data = TensorDataset(*subject.batch(12 * nb_steps, side))
    loader = DataLoader(data, 6, sampler=DistributedSampler(data)) if loads == ITS_OWN else DataLoader(data, 12)
    subject.trainer("n-fgsm", side=side, sync_norms=sync_norms).fit(loader, nb_epochs=1, verbose=False)


def message_rows(sent: Mapping[tuple[str, str, str], Counter[Message]]) -> Iterator[Row]:
    for (network, loads, norms), messages in sent.items():
        yield {
            "network": network,
            "loads": loads,
            "norms": norms,
            "messages": messages.total(),
            "bytes": sum(message.nb_bytes * count for message, count in messages.items()),
            "of the largest": max(message.nb_bytes for message in messages),
            "gathered objects": sum(n for message, n in messages.items() if message.function != "all_reduce"),
        }


def efficiency_rows(
    works: Mapping[tuple[Subject, str], Work], sent: Mapping[tuple[str, str, str], Counter[Message]]
) -> Iterator[Row]:
    for ((subject, attack), work), fabric, (loads, norms) in product(works.items(), FABRICS, WAYS):
        messages = sent.get((subject.name, loads, norms))
        cluster = Cluster(H100, UTILIZATIONS[-1], fabric, loads == ITS_OWN)
        for (scaling, size), nb in product(SCALINGS.items(), SIZES if messages else ()):
            is_weak = scaling.startswith("weak")
            alone = cluster.times(work, Counter(), size, 1)
            times = cluster.times(work, messages or Counter(), size * nb if is_weak else size, nb)
            yield {
                "network": subject.name,
                "attack": attack,
                "scaling": scaling,
                "between machines": fabric.name,
                "loads": loads,
                "norms": norms,
                "GPUs": nb,
            } | efficiency_row(times, alone, 1 if is_weak else nb)


def efficiency_row(times: Times, alone: Times, speedup: int) -> Row:
    parts = {name: getattr(times, name) for name in ("even", "calls", "uneven", "sending", "loading")}
    return {
        **{f"ms {name}": f"{1000 * seconds:.3g}" for name, seconds in parts.items()},
        "efficiency": f"{alone.total / times.total / speedup:.3f}",
        "efficiency, overlapped": f"{alone.total / times.overlapped / speedup:.3f}",
        "most lost to": times.most_lost_to(alone, 1 / speedup),
    }


def measure(given: argparse.Namespace) -> Found:
    torch.manual_seed(0)
    subject = TINY if given.smoke else CONVNEXT
    attacks = ["n-fgsm"] if given.smoke else [*ATTACKS]
    works = {
        (it, attack): work_of(it, attack) for it in (subject, CHECKPOINTED)[: 2 - given.smoke] for attack in attacks
    }
    trained = {}
    for (it, attack), work in works.items():
        name = "OAT" if it is subject else "OAT, checkpointed"
        trained[attack, name] = work.flops(1, nb_attacked(BATCH_SIZE) / BATCH_SIZE)
    for attack in attacks:
        trained |= {(attack, what): flops for what, flops in dedicated_flops(subject, attack).items()}
    scaled = {(TINY, "n-fgsm"): works[TINY, "n-fgsm"]} if given.smoke else {}
    scaled |= {key: works.get(key) or work_of(*key) for key in (() if given.smoke else SCALED)}
    sent = {
        (it.name, loads, norms): exchanged(partial(train, it, loads, norms == "joint", min(it.side, 32)))
        for it, (loads, norms) in product(dict.fromkeys(it for it, _ in scaled), WAYS[:1] if given.smoke else WAYS)
        if not (norms == "joint" and it is CONVNEXT)  # whose norms are of one sample
    }
    tables = {
        "scale_flops": [*flops_rows(works | scaled)],
        "scale_cost": [*cost_rows(trained)],
        "scale_messages": [*message_rows(sent)],
        "scale_efficiency": [*efficiency_rows(scaled, sent)],
    }
    return Found(tables, [0], {DOCS / "scale.md": write_tables, DOCS / "scale.png": plot})


def main(words: Sequence[str] | None = None) -> None:
    run("scale", __doc__, measure, {}, words)


if __name__ == "__main__":
    main()
