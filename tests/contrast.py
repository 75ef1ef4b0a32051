"""How well colors stand apart: contrast by WCAG 2.1, and what is left of a difference in deuteranopia."""

import numpy as np
from matplotlib.colors import to_rgb

LINE, TEXT = 3.0, 4.5
"""The least contrast of graphical objects and of text, WCAG 2.1, success criteria 1.4.11 and 1.4.3."""
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
"""On linear RGB; Machado, Oliveira and Fernandes 2009, severity 1."""
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Return the contrast of two colors, from 1 to 21."""
    dark, light = sorted(float(linear(it) @ _TO_XYZ[1]) for it in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(color):
    """Return CIELAB of a color as somebody with deuteranopia sees it."""
    scaled = _TO_XYZ @ np.clip(DEUTERANOPIA @ linear(color), 0, 1) / (0.9505, 1, 1.089)
    x, y, z = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one, other):
    """Return the distance of two colors in CIELAB in deuteranopia; 2.3 is just noticeable."""
    return float(np.linalg.norm(lab(one) - lab(other)))
