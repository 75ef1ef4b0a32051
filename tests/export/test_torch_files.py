import json

import pytest
import safetensors
import torch

from art_oat.export import FORMATS
from art_oat.export.torch_files import ABOUT
from tests.export.subjects import SUFFIXES, folded, shipment
from tests.networks import images, small_cnn

X = images(5, torch.float32)


def written(name, tmp_path, precision="float32"):
    path = tmp_path / f"net{SUFFIXES[name]}"
    FORMATS[name].write(shipment(folded()), precision, path)
    return path


def test_torch_export_is_run_by_torch_alone_and_says_what_it_is(tmp_path):
    extra = {ABOUT: ""}
    program = torch.export.load(written("torch.export", tmp_path), extra_files=extra)
    torch.testing.assert_close(program.module()(X), folded()(X))
    assert json.loads(extra[ABOUT])["lam"] == "0.3"
    assert program.graph_signature.user_inputs == ("x",)


def test_torchscript_is_run_by_torch_alone_and_says_what_it_is(tmp_path):
    extra = {ABOUT: ""}
    script = torch.jit.load(written("torchscript", tmp_path), _extra_files=extra)
    torch.testing.assert_close(script(X), folded()(X))
    assert json.loads(extra[ABOUT])["lam"] == "0.3"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("float16", torch.float16)])
def test_safetensors_hold_the_weights_of_the_original_class_and_say_what_they_are(precision, dtype, tmp_path):
    with safetensors.safe_open(written("safetensors", tmp_path, precision), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    assert (about["lam"], about["precision"], about["format"]) == ("0.3", precision, "pt")
    network = small_cnn().to(dtype).eval()
    network.load_state_dict(tensors)
    torch.testing.assert_close(network.float()(X), folded().to(dtype).float()(X))


@pytest.mark.parametrize("name", ["torch.export", "safetensors"])
def test_a_file_names_no_folder_of_the_machine(name, tmp_path):
    assert str(torch.__file__).encode() not in written(name, tmp_path).read_bytes()
    assert b"art_oat/models" not in written(name, tmp_path).read_bytes()
