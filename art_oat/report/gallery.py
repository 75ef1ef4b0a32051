"""Attacks a few test images quickly: their answers as lam turns, and how robustness falls as the radius grows."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from art_oat.attacks import PGD, Norm
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.runner import as_module

NB_STEPS = 20
FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Radii at which robustness is looked at, in units of the run's own."""
_NB_STATES = 18
_BATCH_SIZE = 100
_LARGEST_SIDE = 128
_RGB = 3

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Answer(NamedTuple):
    """A class, and the share that softmax gives it."""

    label: int
    confidence: float


@dataclass(frozen=True)
class State:
    """What the images of a gallery are taken for at one operating point.

    Attributes:
        lam: The point's lam.
        width: The point's width.
        clean: Answers to the images as they are.
        attacked: Answers to each image as an attack on this very point leaves it.
        images: The attacked images, as data URIs of PNG.
    """

    lam: float
    width: float
    clean: tuple[Answer, ...]
    attacked: tuple[Answer, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """A few test images, and their answers wherever the dials stand.

    Attributes:
        samples: Which of the test images these are.
        labels: Their classes.
        images: The images as they are, as data URIs of PNG.
        states: One per width and lam of the dial, lams ascending.
    """

    samples: tuple[int, ...]
    labels: tuple[int, ...]
    images: tuple[str, ...]
    states: tuple[State, ...]


def dial(lams: Sequence[float]) -> list[float]:
    """Return where a slider stops: at some lams, ascending, and at others evenly between each two of them."""
    nb_parts = max(1, min(3, _NB_STATES // len(lams)))
    between = [
        low + (high - low) * part / nb_parts for low, high in itertools.pairwise(lams) for part in range(nb_parts)
    ]
    return [*between, lams[-1]]


def attacked(
    classifier: OATClassifier, x: Images, y: Labels, point: OperatingPoint, *, eps: float, norm: Norm, seed: int = 0
) -> Images:
    """Return images ``[N, C, H, W]`` as PGD of 20 steps leaves them at one operating point."""
    network, attack = as_module(classifier, point), PGD.for_evaluation(eps, NB_STEPS, norm)
    found = [np.empty((0, *x.shape[1:]), np.float32)]
    for start in range(0, len(x), _BATCH_SIZE):
        inputs, labels = classifier.as_tensors(x[start : start + _BATCH_SIZE], y[start : start + _BATCH_SIZE])
        generator = torch.Generator(inputs.device).manual_seed(seed + start)
        x_adv = attack(network, inputs, labels, clip_values=(0, 1), generator=generator)
        found.append(x_adv.detach().float().cpu().numpy())
    return np.concatenate(found)


def survivors(
    classifier: OATClassifier, x: Images, y: Labels, point: OperatingPoint, *, radii: Sequence[float], norm: Norm
) -> NDArray[np.bool_]:
    """Say which images are answered right without an attack, and at each radius and all smaller ones, ``[1 + R, N]``.

    What a smaller ball breaks, a larger one holds, too, and so is not attacked again.

    Args:
        classifier: What is attacked.
        x: Images, ``[N, C, H, W]``, in ``[0, 1]``.
        y: Their classes, ``[N]``.
        point: Where.
        radii: ``R`` radii, ascending, in units of ``x``.
        norm: Norm of the balls.
    """
    is_right = _scores(classifier, x, point).argmax(1) == y
    found = [is_right.copy()]
    for eps in radii:
        left = np.flatnonzero(is_right)
        x_adv = attacked(classifier, x[left], y[left], point, eps=eps, norm=norm)
        is_right[left] = _scores(classifier, x_adv, point).argmax(1) == y[left]
        found.append(is_right.copy())
    return np.array(found)


def chosen(clean: NDArray[np.bool_], robust: NDArray[np.bool_], y: Labels, size: int) -> list[int]:
    """Choose images of which some are answered right and some wrong, of different classes as far as that goes.

    Args:
        clean: Whether each is answered right as it is, at several lams, ``[L, N]``.
        robust: Likewise under attack, ``[L, N]``.
        y: Classes, ``[N]``.
        size: How many to choose at most.

    Returns:
        Indices: half of images on which lam decides, the rest of those wrong as they are, never broken, always broken.
    """
    kinds = np.select([~clean.all(0), robust.all(0), ~robust.any(0)], [1, 2, 3], 0)
    found: list[int] = []
    for kind in itertools.cycle((0, 1, 0, 2, 0, 3)):
        left = [index for index in range(len(y)) if index not in found]
        if not left or len(found) == size:
            return sorted(found, key=lambda index: (int(y[index]), index))
        usual = [index for index in left if kinds[index] == kind] or left
        classes = [int(y[index]) for index in found]
        found.append(min(usual, key=lambda index: classes.count(int(y[index]))))
    raise AssertionError("a cycle has no end")


def gallery(
    classifier: OATClassifier,
    x: Images,
    y: Labels,
    samples: Sequence[int],
    *,
    lams: Sequence[float],
    eps: float,
    norm: Norm,
) -> Gallery:
    """Answer and attack images at every width and at every lam of a dial.

    Args:
        classifier: What answers.
        x: The images, ``[N, C, H, W]``, in ``[0, 1]``.
        y: Their classes, ``[N]``.
        samples: Which of the test images they are, ``N`` indices.
        lams: The dial's lams, ascending.
        eps: Radius of the attacks, in units of ``x``.
        norm: Its norm.
    """
    states = []
    for width, lam in itertools.product(classifier.model.widths, lams):
        point = OperatingPoint(lam, width)
        x_adv = attacked(classifier, x, y, point, eps=eps, norm=norm)
        clean, broken = (_answers(classifier, images, point) for images in (x, x_adv))
        states.append(State(lam, width, clean, broken, tuple(map(data_uri, x_adv))))
    return Gallery(tuple(map(int, samples)), tuple(map(int, y)), tuple(map(data_uri, x)), tuple(states))


def _scores(classifier: OATClassifier, x: Images, point: OperatingPoint) -> Images:
    return classifier.predict(x, lam=point.lam, width=point.width)


def _answers(classifier: OATClassifier, x: Images, point: OperatingPoint) -> tuple[Answer, ...]:
    shares = torch.from_numpy(_scores(classifier, x, point)).softmax(1)
    return tuple(Answer(int(share.argmax()), float(share.max())) for share in shares)


def data_uri(image: Images) -> str:
    """Return an image ``[C, H, W]`` in ``[0, 1]`` as a data URI of PNG, of its first channel unless it has three.

    It is rounded to 8 bits, and made smaller if a side is above 128.
    """
    levels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    picture = Image.fromarray(levels.transpose(1, 2, 0) if len(levels) == _RGB else levels[0])
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
