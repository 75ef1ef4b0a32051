"""Write the tables of what others' networks and attacks do with this library: ``python -m tests.compat NAME``.

Names: ``attacks`` (3 minutes), ``fuzz`` (10), ``foreign`` (40), ``overhead`` (3) and ``zoo`` (20 to 40), on two cores.
Nothing is downloaded. A table goes to ``benchmarks/results``; a fault ends the command with an error after that.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from torch import nn
from tqdm import tqdm

from art_oat import to_conditional
from art_oat.layers import NormLayer
from art_oat.layers.filmed import FilmedLayer, nb_outputs
from art_oat.storage import write_rows, write_whole
from tests.compat import foreign, fuzz, zoo
from tests.compat.attack_cases import EXTRAS, LIBRARIES
from tests.compat.comparison import LAM, SEED, data
from tests.compat.foreign_today import TODAY

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PACKAGES = ("torch", "numpy", "adversarial-robustness-toolbox", "torchattacks", "torchvision", "timm", "transformers")
Row = Mapping[str, Any]


def attacks() -> tuple[list[Row], list[str]]:
    """Run every attack of ART and torchattacks; return a row per attack, and what is wrong."""
    rows = [_attack_row(library, name) for library in LIBRARIES for name in tqdm(sorted(LIBRARIES[library].names))]
    bad = [f"{row['attack']}: {row['remark']}" for row in rows if "FAIL" in row["verdict"] or row["remark"] == UNLISTED]
    legend = (
        "*pass*: from the same seeds, the attack does to `at(lam)` and to the `OATClassifier` itself (torchattacks: to "
        "`at(lam).as_module()`) what it does to a plain network, draws the same from the global generators, and leaves "
        "weights, statistics, modes, gradients, hooks and optimizer of the trained network as they were. *own fault*: "
        "it fails on the plain network, too. *needs*: what it asks for. *largest change*: of an input value, on the "
        f"plain network. Seed {SEED}, lam {LAM}. {_environment('attacks')}"
    )
    with write_whole(RESULTS / "art_attacks.md") as file:
        file.write(
            f"# Attacks of ART and torchattacks on art_oat\n\n{legend}\n{''.join(map(_section(rows), LIBRARIES))}"
        )
    return rows, bad


UNLISTED = "UNLISTED"


def _attack_row(library: str, name: str) -> dict[str, str]:
    own = LIBRARIES[library]
    trial = own.attacks.get(name)
    row = {"library": library, "attack": name, "input": "", "verdict": "needs", "remark": "", "largest change": ""}
    if trial is None:
        return {**row, "remark": own.needs.get(name, UNLISTED)}
    comparison = own.compare(trial.case, trial.scene, trial.nb_samples)
    change = comparison.largest_change(data(trial.scene, trial.nb_samples)[0])
    with_extra = f"with {EXTRAS[name]}" if library == "ART" and name in EXTRAS else ""
    row |= {"input": trial.scene, "verdict": comparison.verdict, "remark": comparison.remark or with_extra}
    return {**row, "largest change": "" if change is None else f"{change:.2f}"}


def _section(rows: Iterable[Row]) -> Callable[[str], str]:
    def section(library: str) -> str:
        own = [{**row} for row in rows if row["library"] == library]
        counts = Counter(row["verdict"] for row in own)
        columns = [name for name in own[0] if name != "library"]
        lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in own)]
        table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        return f"\n## {library}: {', '.join(f'{name} {count}' for name, count in counts.items())}\n\n{table}\n"

    return section


def fuzzed() -> tuple[list[Row], list[str]]:
    """Count what becomes of random networks of seeds 0 to 499: right, refused, or wrong."""
    counts = Counter(_fuzz_outcome(seed) for seed in tqdm(range(fuzz.NB_SEEDS), unit="network"))
    rows = [{"outcome": outcome, "networks": count} for outcome, count in counts.most_common()]
    return rows, [outcome for outcome in counts if outcome.startswith("wrong")]


def _fuzz_outcome(seed: int) -> str:
    try:
        return fuzz.check(seed)
    except Exception as error:  # noqa: BLE001 - a network that fails is a result
        return f"wrong: seed {seed}, {_first_line(error)}"


def trained() -> tuple[list[Row], list[str]]:
    """Train every network of other libraries for two steps by PGD-2, in every dtype and layout."""
    networks = (*foreign.QUICK, *foreign.SLOW, *TODAY)
    cases = list(itertools.product(networks, foreign.DTYPES, foreign.LAYOUTS))
    found = Parallel(n_jobs=-1, return_as="generator")(delayed(_trained_row)(*case) for case in cases)
    rows = list(tqdm(found, total=len(cases), unit="training"))
    print("{} of {} convert and train".format(*nb_right(rows)))
    return rows, [row["network"] for row in rows if row["verdict"] not in (RIGHT, REFUSED)]


RIGHT = "trains"
REFUSED = "refused, as torch would train it wrong"


def _trained_row(it: foreign.Foreign, dtype: str, layout: str) -> Row:
    row = {"network": it.name, "source": it.source, "dtype": dtype, "layout": layout}
    try:
        with tempfile.TemporaryDirectory() as folder:
            exports = it in TODAY and layout == "contiguous"
            trained = foreign.train(it, foreign.DTYPES[dtype], foreign.LAYOUTS[layout], Path(folder), exports=exports)
    except Exception as error:  # noqa: BLE001 - a network that fails is a result
        build = it.build(foreign.DTYPES[dtype], foreign.LAYOUTS[layout])
        paths = foreign.untrainable_layers(build, foreign.DTYPES[dtype], foreign.LAYOUTS[layout])
        is_right = bool(paths) and all(path in str(error) for path in ("channels last", *paths))
        return row | {"verdict": REFUSED if is_right else _first_line(error)}
    return row | {
        "verdict": "; ".join(trained.faults(it.exact(dtype))) or RIGHT,
        "norms": trained.nb_norms,
        "parameters": trained.nb_plain,
        "overhead": f"{trained.overhead:.3f}",
        "difference": f"{max(trained.differences.values()):.1e}",
        "onnx": f"{trained.differences['onnx']:.1e}" if "onnx" in trained.differences else "",
        "seconds": f"{trained.seconds / 2:.3f}",
    }


def nb_right(rows: Iterable[Row]) -> tuple[int, int]:
    """Count the networks that train wherever torch can train them, and all networks."""
    verdicts = defaultdict(set)
    for row in rows:
        verdicts[row["source"], row["network"]].add(row["verdict"])
    return sum(RIGHT in found and found <= {RIGHT, REFUSED} for found in verdicts.values()), len(verdicts)


def overhead() -> tuple[list[Row], list[str]]:
    """Count what the default conversion adds in parameters, and what FiLM of two layers and 128 codes would add."""
    large = (zoo.Family("resnet", "resnet50", 64),)
    families = [
        ("zoo", family.constructor, family.build(), {**family.options, "input_shape": (3, family.size, family.size)})
        for family in (*large, *zoo.QUICK, *zoo.SLOW)
    ]
    plain = (torch.float32, torch.contiguous_format)
    others = [
        (it.source, it.name, it.build(*plain), {**it.options, "input_shape": it.input_shape})
        for it in (*foreign.QUICK, *foreign.SLOW, *TODAY)
    ]
    rows = [_overhead_row(*it) for it in tqdm((*families, *others), unit="network")]
    for source in dict.fromkeys(row["source"] for row in rows):
        ratios = [float(row["ratio"]) for row in rows if row["source"] == source]
        small, smaller = (sum(it <= bound for it in ratios) for bound in (1.25, 1.1))
        print(f"{source}: of {len(ratios)}, {small} at most 1.25 and {smaller} at most 1.1 times as large")
    return rows, []


def _overhead_row(source: str, name: str, network: nn.Module, conversion: Mapping[str, Any]) -> Row:
    plain = nb_parameters(network)
    model = to_conditional(network, **conversion)
    films = {layer.film: layer.nb_channels for layer in model.modules() if isinstance(layer, NormLayer)}
    filmed = [layer for layer in model.modules() if isinstance(layer, FilmedLayer)]
    films |= {layer.modulation.film: nb_outputs(layer.layer) for layer in filmed}
    larger = sum(_two_layers(size) - nb_parameters(film) for film, size in films.items() if film is not None)
    return {
        "source": source,
        "network": name,
        "plain": plain,
        "converted": nb_parameters(model.network),
        "ratio": f"{model.overhead:.3f}",
        "ratio with two layers": f"{(nb_parameters(model.network) + larger) / plain:.2f}",
    }


def nb_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _two_layers(nb_channels: int, code_dim: int = 128) -> int:
    """Return the parameters of ``code_dim -> 2C -> 2C`` with biases."""
    return (code_dim + 1) * 2 * nb_channels + (2 * nb_channels + 1) * 2 * nb_channels


def converted() -> tuple[list[Row], list[str]]:
    """Convert, train, fold and slim every family of a zoo in float64, and compare its forms."""
    rows = [_zoo_row(family) for family in tqdm((*zoo.QUICK, *zoo.SLOW), unit="network")]
    return rows, [row["network"] for row in rows if row["verdict"] != "exact"]


def _zoo_row(family: zoo.Family) -> Row:
    started = time.perf_counter()
    row = {"family": family.module, "network": family.constructor, "size": family.size}
    try:
        outcome = zoo.examine(family)
    except Exception as error:  # noqa: BLE001 - a family that fails is a result
        return row | {"verdict": _first_line(error)}
    figures = asdict(outcome)
    refusal = figures.pop("refusal")
    slimmable = f"no, it {zoo.NOT_SLIMMABLE.get(family.module, refusal[:120])}" if refusal else "yes"
    # attention and long products enlarge rounding from 1e-15 up to 2e-11
    row |= {"verdict": "exact" if outcome.worst < 1e-9 else "differs"}
    row |= {name: "" if it is None else it if isinstance(it, int) else f"{it:.2g}" for name, it in figures.items()}
    return row | {"slimmable": slimmable, "seconds": round(time.perf_counter() - started, 1)}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def _environment(name: str) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"python -m tests.compat {name}; {versions}; {platform.machine()}, {os.cpu_count()} cores"


TABLES: dict[str, tuple[str, Callable[[], tuple[list[Row], list[str]]]]] = {
    "attacks": ("art_attacks.csv", attacks),
    "foreign": ("foreign.csv", trained),
    "fuzz": ("fuzz.csv", fuzzed),
    "overhead": ("overhead.csv", overhead),
    "zoo": ("zoo.csv", converted),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TABLES)
    name = parser.parse_args().name
    file, make = TABLES[name]
    rows, bad = make()
    made_by = {"made by": _environment(name)}
    write_rows(RESULTS / file, [{**row, **made_by} for row in rows], last=[*made_by])
    print(f"Written: {RESULTS / file}")
    if bad:
        raise SystemExit(f"{len(bad)} are wrong: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
