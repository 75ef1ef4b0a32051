import pytest
import torch

from art_oat.models import SmallCNN


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (2, 1, 5, 7)])
def test_it_scores_images_of_any_size(shape):
    assert SmallCNN(shape[1], nb_classes=7, channels=(4, 6, 8))(torch.zeros(shape)).shape == (2, 7)


def test_its_size_is_that_of_its_layers():
    nb_parameters = sum(parameter.numel() for parameter in SmallCNN(3, 10, (8, 16)).parameters())
    assert nb_parameters == (3 * 8 * 9 + 2 * 8) + (8 * 16 * 9 + 2 * 16) + (16 * 10 + 10)


def test_only_convolutions_after_the_first_halve_the_resolution():
    features = SmallCNN(channels=(2, 2, 2)).features
    assert features(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 2, 2)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="channels must hold whole numbers, each at least 1"):
        SmallCNN(channels=())
