"""Training by ranges of attributes: does it keep what it trained for, and what does that do for corruptions?

    python -m benchmarks.attribute_ranges --data digits                          # 10 minutes on one core
    python -m benchmarks.attribute_ranges --data cifar10 --data-folder FOLDER    # 20 minutes on one core

"oat" is the base of ``ablation.py``; "attribute ranges" has ``neighbors/attributes.py`` in place of PGD, where lam
weighs what it finds; in "attribute radii", lam is the share of the ranges. One seed, on digits three folds. Judged at
lam 0, 0.2 and 1: by the worst of 10 draws as in training, by the worst of 100 and ten steps of ascent more, all in the
full ranges, and on corruptions (``art_oat.evaluation.corruptions``, mean over severities, on digits harder than meant).
Gains over "oat" are in points, paired by image, with 95% bootstrap intervals over images, which leave out what another
training would change. What is finished is kept in --runs.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from art_oat import OATClassifier
from art_oat.attacks import is_correct
from art_oat.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from art_oat.experiment.recipe import Recipe
from benchmarks import ablation, neighborhood
from benchmarks.configs import Part
from benchmarks.neighbors.attributes import NEIGHBORS, Attributes
from benchmarks.neighbors.neighbor import Neighbor
from benchmarks.statistics import interval
from benchmarks.study import Found, data_options, kept, run
from benchmarks.tables import Row

_RANGES = NEIGHBORS["attribute ranges"]
TRAINED = {
    neighborhood.BASE: neighborhood.NEIGHBORS[neighborhood.BASE],
    "attribute ranges": _RANGES,
    "attribute radii": replace(_RANGES, what="the same, in the share of lam of all ranges", recipe={"dials": "eps"}),
}
NB_IMAGES = 1000
JUDGES = {"worst of 10": Attributes(), "worst of 100, and ascent": Attributes().stronger()}
Answers = dict[str, list[list[float]]]
"""By judge: for each lam, which images are right, or the share of their corrupted forms that is."""


def answers(classifier: OATClassifier, x: NDArray[np.float32], y: NDArray[np.int64]) -> Answers:
    """Judge a network at every lam."""
    images, labels = classifier.as_tensors(x, y)
    spoiled = [corrupted(x, name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    found: Answers = {"clean": [], **{name: [] for name in JUDGES}, "corruptions": []}
    for lam in ablation.LAMBDAS:
        network = classifier.at(lam).as_module()
        for name, attack in JUDGES.items():
            generator = torch.Generator().manual_seed(0)
            x_adv = attack(network, images, labels, clip_values=classifier.clip_values, generator=generator)
            found[name].append(is_correct(network, x_adv, labels).double().tolist())
        found["clean"].append(is_correct(network, images, labels).double().tolist())
        every = [is_correct(network, classifier.as_tensors(it, y)[0], labels).double() for it in spoiled]
        found["corruptions"].append(torch.stack(every).mean(dim=0).tolist())
    return found


def judged(neighbor: Neighbor, recipe: Recipe, part: Part, nb_images: int) -> dict[str, Any]:
    """Train on a part, and judge on its first test images."""
    model, seconds = neighborhood.train(neighbor, recipe, part.data)
    print(f"{neighbor.what}, {part.name}: {seconds:.0f} s", flush=True)
    classifier = recipe.classifier(model, part.data.input_shape, part.data.nb_classes)
    return {"answers": answers(classifier, *(it[:nb_images] for it in part.data.test)), "seconds": seconds}


def rows_of(name: str, own: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[Row]:
    """Return a row per judge and lam: accuracy in percent, and the gain over the base in points."""
    rows: list[Row] = []
    for judge in own[0]["answers"]:
        ours, theirs = (np.concatenate([it["answers"][judge] for it in found], axis=1) for found in (own, base))
        for lam, right, before in zip(ablation.LAMBDAS, ours, theirs, strict=True):
            row: Row = {"network": name, "judge": judge, "lam": f"{lam:g}", "accuracy": f"{100 * right.mean():.1f}"}
            low, high = interval(100 * (right - before))
            row |= {"gain": f"{100 * (right - before).mean():+.1f}", "gain, 95%": f"{low:+.1f} to {high:+.1f}"}
            rows.append(row | {"images": len(right)})
    return rows


def measure(given: argparse.Namespace) -> Found:
    config = replace(ablation.CONFIGS[given.data].in_folder(given.data_folder), variants={}, seeds=(0,))
    config = config.shortened() if given.smoke else config
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TRAINED}
    for part, (name, neighbor) in product(islice(config.parts(), 1 if given.smoke else None), TRAINED.items()):
        recipe = neighbor.changed(config.recipe, seed=part.seed)
        make = partial(judged, neighbor, recipe, part, 4 if given.smoke else NB_IMAGES)
        path = given.runs / given.data / part.name / f"{name.replace(' ', '-')}.json"
        found[name].append(kept(path, recipe.as_values() | {"data_folder": None}, make))
    rows = [row for name in TRAINED for row in rows_of(name, found[name], found[neighborhood.BASE])]
    return Found({f"attribute_ranges_{given.data}": rows}, config.seeds)


if __name__ == "__main__":
    run("attribute_ranges", __doc__, measure, data_options("attribute_ranges"))
