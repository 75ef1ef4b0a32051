import pytest
import torch

from art_oat.data.augmentation import RandomCropFlip
from benchmarks.neighbors.recognition import Memory, Recognition, keys

AUGMENTATIONS = [None, RandomCropFlip(2), RandomCropFlip(1, has_flip=False), RandomCropFlip(0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(nb_samples=9, nb_channels=2):
    return 0.1 + 0.9 * torch.rand(nb_samples, nb_channels, 4, 5, generator=generator(1))  # none is black


def recognition_of(x, augmentation):
    return Recognition(augmentation, {key: number for number, key in enumerate(keys(x))})


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_what_is_remembered_of_an_image_moves_with_it(augmentation):
    x, order = images(), torch.tensor([3, 0, 8, 5])
    recognition = recognition_of(x, augmentation)
    given = recognition(x[order], generator())
    assert augmentation is None or torch.equal(given, augmentation(x[order], generator()))
    some = [2, 0, 3]  # whichever a part of the batch has, in any order and layout
    actual = Memory(recognition, x.clone()).read(
        given[some].contiguous(memory_format=torch.channels_last), torch.zeros(3, *x.shape[1:])
    )
    assert torch.equal(actual, given[some])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_what_is_written_is_read_where_the_image_has_not_left_and_all_else_stays(augmentation):
    x, order = images(), torch.tensor([3, 0, 8, 5])
    recognition = recognition_of(x, augmentation)
    memory = Memory(recognition, x.clone())
    given = recognition(x[order], generator())
    memory.write(given, 2 * given)
    is_seen = given > 0
    assert torch.equal(memory.read(given, -torch.ones_like(given)), torch.where(is_seen, 2 * given, -1))
    is_doubled = memory.values == 2 * x
    assert torch.equal(memory.values, torch.where(is_doubled, 2 * x, x))
    assert int(is_doubled.sum()) == int(is_seen.sum())
    assert not is_doubled[[1, 2, 4, 6, 7]].any()


def test_of_an_image_that_no_one_trains_on_nothing_is_known():
    x, strange = images(), images(3) / 2
    recognition = recognition_of(x, None)
    recognition(x, generator())
    memory, given = Memory(recognition, x.clone()), torch.cat([strange[:1], x[4:5], strange[1:]])
    actual = memory.read(given, torch.full_like(given, 7.0))
    assert torch.equal(actual[1], x[4])
    assert bool((actual[[0, 2, 3]] == 7).all())
    memory.write(given, torch.zeros_like(given))
    assert memory.values.flatten(1).any(dim=1).tolist() == [number != 4 for number in range(9)]
