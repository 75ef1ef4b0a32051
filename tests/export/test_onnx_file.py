import onnx
import onnxruntime
import pytest
import torch

from art_oat.export import FORMATS
from tests.export.subjects import folded, shipment
from tests.networks import images

X = images(5, torch.float32)
ONNX = FORMATS["onnx"]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_file_is_run_by_onnxruntime_alone_with_named_float32_inputs_for_any_batch(precision, tmp_path):
    ONNX.write(shipment(folded()), precision, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (x,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", ["N", 1, 6, 6])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 5])
    tolerance = {"float32": 1e-5, "float16": 1e-2}[precision]
    for size in (1, 3, 5):
        (answer,) = session.run(None, {"x": X[:size].numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), folded()(X[:size]), rtol=tolerance, atol=tolerance)


@pytest.mark.slow(seconds=1)
def test_half_precision_keeps_weights_of_half_the_size(tmp_path):
    sizes = {}
    for precision in ("float32", "float16"):
        ONNX.write(shipment(folded()), precision, tmp_path / "net.onnx")
        weights = onnx.load(tmp_path / "net.onnx").graph.initializer
        sizes[precision] = sum(len(it.raw_data) for it in weights if len(it.dims) == 4)
    assert sizes["float16"] == sizes["float32"] / 2


@pytest.mark.slow(seconds=1)
def test_a_file_says_what_it_is_and_names_no_folder_of_the_machine(tmp_path):
    ONNX.write(shipment(folded()), "float32", tmp_path / "net.onnx")
    about = {it.key: it.value for it in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert (about["lam"], about["width"], about["clip_values"]) == ("0.3", "1.0", "[0, 1]")
    assert b".py" not in (tmp_path / "net.onnx").read_bytes()
