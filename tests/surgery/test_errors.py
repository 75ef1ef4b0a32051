import pytest
from torch import nn

from art_oat.surgery.errors import UnsupportedModuleError, refuse_layers

NETWORK = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))


def test_without_a_fault_nothing_is_refused():
    refuse_layers("slim", {}, NETWORK, "Do something else.")


def test_every_fault_is_named_by_dotted_path_and_type_in_one_message():
    faults = {"0.1": "it is red", "1": "it is blue", "": "it is long"}
    assert issubclass(UnsupportedModuleError, ValueError)
    with pytest.raises(UnsupportedModuleError) as caught:
        refuse_layers("paint", faults, NETWORK, "Do something else.")
    assert str(caught.value) == (
        "cannot paint 3 layer(s). 0.1 (ReLU): it is red. 1 (Linear): it is blue. the network itself (Sequential): it "
        "is long. Do something else."
    )
