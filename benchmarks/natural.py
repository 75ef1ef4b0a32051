"""What lam does where nobody attacks: is the network as sure as it is right, and what does it keep of spoiled images?

    python -m benchmarks.natural --data digits                          # a minute on one core
    python -m benchmarks.natural --data cifar10 --data-folder FOLDER    # 10 minutes on one core

The networks that come with the library (``art_oat.pretrained``), one training each, on the first 500 test
images (of digits on photographs; of CIFAR-10, JPEG-75), at every trained lam. Calibration is the expected
calibration error with 15 bins on images as they are. Corruptions are those of
``art_oat.evaluation.corruptions``, noise from seed 0; on digits, whose images have 16x16 pixels, those that
CIFAR-10-C has for 32x32 are harder. Differences to lam 0 are paired by image, with 95% bootstrap intervals over
images.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from art_oat import OATClassifier, pretrained
from art_oat.evaluation import Calibration
from art_oat.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from benchmarks.statistics import interval
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row

NB_IMAGES = 500
Shares = NDArray[np.float64]


def right(classifier: OATClassifier, x: NDArray[np.float32], y: NDArray[np.int64]) -> Shares:
    """Return which images are right at each lam, ``[lams, N]``."""
    lams = classifier.model.lambdas
    return np.array([classifier.predict(x, 500, lam=lam).argmax(axis=1) == y for lam in lams], dtype=float)


def rows_of(what: str, lambdas: tuple[float, ...], shares: Shares) -> list[Row]:
    """Return a row per lam: accuracy in percent, and the difference to the first in points."""
    rows: list[Row] = []
    for lam, own in zip(lambdas, shares, strict=True):
        row: Row = {"images": what, "lam": f"{lam:g}", "accuracy": f"{100 * own.mean():.1f}"}
        if lam != lambdas[0]:
            difference = 100 * (own - shares[0])
            ends = {"": difference.mean(), **dict(zip((" low", " high"), interval(difference), strict=True))}
            row |= {f"difference to {lambdas[0]:g}{name}": f"{end:+.1f}" for name, end in ends.items()}
        rows.append(row)
    return rows


def measure(given: argparse.Namespace) -> Found:
    it = pretrained(given.data)
    recipe = it.recipe.changed(data_folder=given.data_folder)
    nb_images = 20 if given.smoke else NB_IMAGES
    x, y = (part[:nb_images] for part in recipe.dataset().test)
    lams = it.classifier.model.lambdas
    calibration = [
        {
            name: f"{value:.4f}" if isinstance(value, float) and name not in ("lam", "width") else value
            for name, value in row.items()
        }
        for row in Calibration.measure(it.classifier, x, y).rows()
    ]
    by_name = {"as they are": right(it.classifier, x, y)}
    for name in CORRUPTIONS:
        spoiled = [corrupted(x, name, severity) for severity in SEVERITIES]
        by_name[name] = np.mean([right(it.classifier, images, y) for images in spoiled], axis=0)
        print(name, flush=True)
    by_name["mean over corruptions"] = np.mean([by_name[name] for name in CORRUPTIONS], axis=0)
    rows = [row for name, shares in by_name.items() for row in rows_of(name, lams, shares)]
    tables = {f"calibration_{given.data}": calibration, f"corruptions_{given.data}": rows}
    return Found(tables, [recipe.seed])


if __name__ == "__main__":
    run("natural", __doc__, measure, data_options("natural"))
