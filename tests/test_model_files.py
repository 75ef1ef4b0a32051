import pytest
import safetensors.torch
import torch

from art_oat.model_files import encoded, read_model, write_model

WEIGHTS = {"a": torch.ones(2), "b": torch.zeros(3)}
DESCRIPTION = {"format": 1, "class": "It", "conversion": {}, "default_point": {}, "dtype": "float32"}


def test_what_was_written_is_read_with_the_tensors(tmp_path):
    write_model(tmp_path, encoded(WEIGHTS), DESCRIPTION)
    description, tensors = read_model(tmp_path, check=True)
    assert description.items() >= DESCRIPTION.items()
    torch.testing.assert_close(tensors, WEIGHTS)


def test_views_of_one_tensor_are_written_whole_and_names_of_the_same_once():
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "again": whole, "part": whole[:3], "turned": whole.view(2, 3).t(), "none": whole[:0]}
    found = safetensors.torch.load(encoded(tensors))
    assert found.keys() == {"whole", "part", "turned", "none"}
    torch.testing.assert_close(found, {name: tensors[name] for name in found})


def test_the_description_of_other_weights_is_refused(tmp_path):
    for number in (1, 2):
        write_model(tmp_path / str(number), encoded({"a": torch.full((2,), float(number))}), DESCRIPTION)
    (tmp_path / "1" / "config.json").replace(tmp_path / "2" / "config.json")
    with pytest.raises(ValueError, match=r"model\.safetensors must be what save_model wrote with config\.json"):
        read_model(tmp_path / "2", check=True)
    assert read_model(tmp_path / "2", check=False)[1]["a"].tolist() == [2.0, 2.0]
