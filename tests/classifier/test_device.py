import pytest
import torch
from torch import nn

from art_oat import OATClassifier, to_conditional
from art_oat.classifier.device import named_device
from tests.networks import SmallCNN


def classifier(device_type):
    model = to_conditional(SmallCNN(1, 3, [2]), (0, 1), input_shape=(1, 8, 8))
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 3, device_type=device_type)


@pytest.mark.parametrize("device_type", ["auto", "cpu"])
def test_without_a_gpu_the_classifier_computes_on_the_processor(device_type, monkeypatch, recwarn):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert classifier(device_type).device.type == "cpu"
    assert not [warning for warning in recwarn if "device" in str(warning.message)]


def test_a_gpu_that_is_asked_for_and_not_there_is_warned_of(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="device_type must be 'cpu' or 'auto' where torch sees no GPU.*on the CPU"):
        assert classifier("gpu").device.type == "cpu"


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match=r"device_type must be one of \('auto', 'cpu', 'gpu'\), got 'tpu'"):
        classifier("tpu")


def test_a_device_has_a_name_that_says_what_is_used():
    assert named_device(torch.device("cpu")) == f"the CPU ({torch.get_num_threads()} threads)"
