"""What a dial costs in parameters, on networks that nobody here wrote: the default conversion against the plain one.

Run from the checkout: ``python -m benchmarks.overhead`` (three minutes on one core). Nothing is trained or downloaded.

Default lams: another side of every batch norm, and a table of six affines, ``14 C`` for a norm of ``C`` channels. "two
layers" is what the published form of FiLM would make of the same network, with its codes of 128 numbers. All of it is
there in training alone: what is folded has the plain network's size.
"""

from collections.abc import Iterator

import torch
from torch import nn
from tqdm import tqdm

from art_oat import to_conditional
from art_oat.layers import BatchNormLayer
from benchmarks.record import RESULTS, environment, text, write
from tests import foreign, zoo

LIMIT = 1.25
PUBLISHED_DIM = 128
LARGE = (zoo.Family("resnet", "resnet50", 64),)


def networks() -> Iterator[tuple[str, str, nn.Module, dict[str, object]]]:
    """Give source, name, network and conversion of each."""
    for family in (*LARGE, *zoo.QUICK, *zoo.SLOW):
        yield (
            "zoo",
            family.constructor,
            family.build(),
            {**family.options, "input_shape": (3, family.size, family.size)},
        )
    for it in (*foreign.QUICK, *foreign.SLOW):
        network = it.build(torch.float32, torch.contiguous_format)
        yield it.source, it.name, network, {**it.options, "input_shape": it.input_shape}


def nb_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def nb_of_two_layers(nb_channels: int) -> int:
    """Return the parameters of a FiLM of two layers, ``D -> 2C -> 2C`` with biases."""
    return (PUBLISHED_DIM + 1) * 2 * nb_channels + (2 * nb_channels + 1) * 2 * nb_channels


def row(source: str, name: str, network: nn.Module, conversion: dict[str, object]) -> dict[str, object]:
    """Convert a network and count."""
    plain = nb_parameters(network)
    model = to_conditional(network, **conversion)  # type: ignore[arg-type]
    films = {layer.film: layer.nb_channels for layer in model.modules() if isinstance(layer, BatchNormLayer)}
    larger = sum(nb_of_two_layers(size) - nb_parameters(film) for film, size in films.items() if film is not None)
    converted = nb_parameters(model.network)
    return {
        "source": source,
        "network": name,
        "plain": plain,
        "converted": converted,
        "ratio": f"{model.overhead:.3f}",
        "ratio with two layers": f"{(converted + larger) / plain:.2f}",
    }


def main() -> None:
    rows = [row(*it) for it in tqdm(networks(), unit="network")]
    write(RESULTS / "overhead.csv", rows, environment("python -m benchmarks.overhead"))
    for source in dict.fromkeys(str(it["source"]) for it in rows):
        found = sorted((it for it in rows if it["source"] == source), key=lambda it: -float(str(it["ratio"])))
        nb_within = sum(float(str(it["ratio"])) <= LIMIT for it in found)
        print(f"\n{source}: {nb_within} of {len(found)} at most {LIMIT} times as large; the largest:")
        print(text(found[:5]))


if __name__ == "__main__":
    main()
