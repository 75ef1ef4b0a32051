import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from art_oat.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted


def photographs(nb_images: int = 3, nb_channels: int = 3, size: int = 32) -> np.ndarray:
    """Smooth images, as photographs are."""
    drawn = np.random.default_rng(0).random((nb_images, nb_channels, size, size))
    smooth = gaussian_filter(drawn, (0, 0, 2, 2))
    span = smooth.max() - smooth.min()
    return ((smooth - smooth.min()) / span).astype(np.float32)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("nb_channels", [1, 3])
def test_a_corruption_grows_with_its_severity_and_stays_in_the_range_of_images(name, nb_channels):
    x = photographs(nb_channels=nb_channels)
    found = [corrupted(x, name, severity) for severity in SEVERITIES]
    distances = [float(np.abs(it - x).mean()) for it in found]
    assert all(it.shape == x.shape and it.dtype == np.float32 and 0 <= it.min() <= it.max() <= 1 for it in found)
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]


def test_noise_has_its_deviation_and_comes_from_its_seed():
    x = np.full((50, 3, 32, 32), 0.5, dtype=np.float32)
    found = corrupted(x, "gaussian noise", 3, seed=1)
    assert found.std() == pytest.approx(0.08, rel=0.02)
    np.testing.assert_array_equal(found, corrupted(x, "gaussian noise", 3, seed=1))
    assert not np.array_equal(found, corrupted(x, "gaussian noise", 3, seed=2))


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.4), (5, 1.0)])
def test_blur_is_that_of_scipy(severity, sigma):
    x = photographs()
    expected = gaussian_filter(x.astype(np.float64), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    np.testing.assert_allclose(corrupted(x, "gaussian blur", severity), expected, atol=1e-5)


def test_brightness_raises_the_value_of_hsv_and_keeps_hue_and_saturation():
    x = photographs(1)
    found = corrupted(x, "brightness", 4)
    for old, new in zip(x[0].reshape(3, -1).T[::50], found[0].reshape(3, -1).T[::50], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old.tolist())
        np.testing.assert_allclose(new, colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)), atol=1e-5)
    assert corrupted(np.zeros((1, 3, 2, 2), np.float32), "brightness", 4) == pytest.approx(0.2)


def test_contrast_shrinks_distances_to_the_mean_of_each_channel():
    x = photographs()
    found, means = corrupted(x, "contrast", 2), x.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(found - means, 0.5 * (x - means), atol=1e-6)


def test_jpeg_and_pixels_are_those_of_pillow():
    levels = np.rint(255 * photographs(1)).astype(np.uint8)
    image, file = Image.fromarray(levels[0].transpose(1, 2, 0)), io.BytesIO()
    image.save(file, "JPEG", quality=40)
    np.testing.assert_allclose(255 * corrupted(levels, "jpeg", 5)[0].transpose(1, 2, 0), np.asarray(Image.open(file)))
    small = image.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    np.testing.assert_allclose(255 * corrupted(levels / np.float32(255), "pixelate", 5)[0].transpose(1, 2, 0), small)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "fog", "severity": 0}, "name must be one of gaussian noise.*severity must be a whole number from 1"),
        ({"x": np.zeros((2, 4, 8, 8), np.float32)}, "x must hold images"),
        ({"x": np.full((2, 3, 8, 8), 1.5, np.float32)}, "x must lie within"),
    ],
)
def test_what_cannot_be_spoiled_is_refused(changes, said):
    given = {"x": photographs(1), "name": "jpeg", "severity": 1, **changes}
    with pytest.raises(ValueError, match=said):
        corrupted(**given)
