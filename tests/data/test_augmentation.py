import pytest
import torch

from art_oat.data.augmentation import RandomCropFlip
from art_oat.draws import Rows, drawing_for
from tests.pairs import parametrize_in_pairs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(augment, x, generator):
    """The same draws, applied to one image, row and column at a time."""
    top, left, is_mirrored = augment._draw(len(x), x.device, generator)
    expected = torch.zeros_like(x)
    _, _, height, width = x.shape
    for n in range(len(x)):
        for i in range(height):
            for j in range(width):
                source = width - 1 - j if is_mirrored[n] else j
                row, column = top[n] + i - augment.padding, left[n] + source - augment.padding
                if 0 <= row < height and 0 <= column < width:
                    expected[n, :, i, j] = x[n, :, row, column]
    return expected


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.bool]


@parametrize_in_pairs(
    augment=[RandomCropFlip(), RandomCropFlip(2, has_flip=False), RandomCropFlip(0), RandomCropFlip(2)],
    shape=[(9, 3, 8, 8), (5, 1, 4, 7), (3, 2, 1, 1), (0, 3, 8, 8)],
    dtype=DTYPES,
    memory_format=[torch.contiguous_format, torch.channels_last],
)
def test_it_does_to_all_images_at_once_what_a_loop_does_to_each(augment, shape, dtype, memory_format):
    x = (torch.rand(shape, generator=seeded(1)) * 2).to(dtype).contiguous(memory_format=memory_format)
    original = x.clone()
    actual = augment(x, seeded())
    torch.testing.assert_close(actual, one_by_one(augment, x, seeded()), rtol=0, atol=0)
    torch.testing.assert_close(x, original, rtol=0, atol=0)
    assert actual.stride() == x.stride()


def test_without_padding_and_flip_images_stay_as_they_are():
    x = torch.rand(4, 3, 5, 6)
    torch.testing.assert_close(RandomCropFlip(0, has_flip=False)(x, seeded()), x, rtol=0, atol=0)


def test_every_shift_and_both_directions_are_equally_frequent_and_independent():
    nb_samples, share = 36_000, 1 / (3 * 3 * 2)
    x = torch.zeros(1, 1, 5, 7)
    x[0, 0, 2, 1] = 1  # lands in columns 0 to 2, or 4 to 6 where it is mirrored
    augmented = RandomCropFlip(padding=1)(x.expand(nb_samples, -1, -1, -1), seeded())
    shares = augmented.double().mean(dim=(0, 1))[1:4, [0, 1, 2, 4, 5, 6]]
    five_standard_errors = 5 * (share * (1 - share) / nb_samples) ** 0.5
    torch.testing.assert_close(shares, torch.full_like(shares, share), rtol=0, atol=five_standard_errors)


def test_the_same_seed_gives_the_same_images_and_the_next_call_others():
    x = torch.rand(16, 1, 8, 8)
    generator = seeded()
    first, second = (RandomCropFlip()(x, generator) for _ in range(2))
    torch.testing.assert_close(RandomCropFlip()(x, seeded()), first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_the_images_stay_on_their_device_wherever_the_draws_are_made():
    x = torch.rand(4, 3, 6, 5, device="meta")
    actual = RandomCropFlip()(x, seeded())
    assert (actual.device, actual.shape) == (x.device, x.shape)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8), (1, 2, 3, 4, 5)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"x must be images \[N, C, H, W\]"):
        RandomCropFlip()(torch.zeros(shape))


@pytest.mark.parametrize("padding", [-1, 1.5, True])
def test_a_padding_that_is_no_count_is_refused(padding):
    with pytest.raises((TypeError, ValueError), match="padding must be a whole number"):
        RandomCropFlip(padding)


def test_a_part_of_the_images_is_changed_as_it_is_among_all():
    x, index = torch.rand(9, 3, 8, 8, generator=seeded(1)), torch.tensor([7, 0, 3])
    with drawing_for(Rows(index, len(x))):
        part = RandomCropFlip(2)(x[index], seeded())
    assert torch.equal(part, RandomCropFlip(2)(x, seeded())[index])
