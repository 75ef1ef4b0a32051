import itertools
import math
import stat

import pytest
import torch
from torch import Tensor, nn

from art_oat.export import FORMATS, TOLERANCES, ExportError, ship
from art_oat.export.torch_files import TorchScript
from tests.export.subjects import SUFFIXES, folded, shipment
from tests.networks import images, labels

X, Y = images(40, torch.float32), labels(40)


CALLS = itertools.count()


class Drawn(nn.Module):
    """Answers otherwise in a file, where what it computes once has become a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] * self.weight + 0.01 * next(CALLS)


class OfTwo(nn.Module):
    """Knows batches of two alone, once it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1)[:, :5]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_answers_otherwise_than_the_network_is_refused_with_the_number_and_an_older_one_stays(
    name, tmp_path
):
    path = tmp_path / f"net{SUFFIXES[name]}"
    path.write_text("older")
    network, other = folded(), folded(lam=1.0)
    kind = FORMATS[name]

    class Wrong(type(kind)):
        def run(self, path, shipment):
            return other

    FORMATS[name] = Wrong()
    try:
        with pytest.raises(ExportError, match=rf"^{name} must answer as the network does, to 0.001 .* by \d\.\de.\d\d"):
            ship(shipment(network), path)
    finally:
        FORMATS[name] = kind
    assert [it.name for it in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "older"


def test_what_tracing_makes_a_constant_is_found_out_by_running_the_file(tmp_path):
    with pytest.raises(ExportError, match="must answer as the network does"):
        ship(shipment(Drawn().eval()), tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_that_takes_batches_of_one_size_alone_is_refused(tmp_path):
    with pytest.raises(
        ExportError, match=r"torchscript must answer batches of any size, but its file gives scores \[4, 5\]"
    ):
        ship(shipment(OfTwo().eval()), tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x.flatten(1)[:, :5]
        return scores if float(x.sum()) > 0 else -scores


@pytest.mark.parametrize("name", ["onnx", "torch.export"])
def test_what_an_exporter_says_on_pages_is_said_in_one_line(name, tmp_path, capfd):
    with pytest.raises(ExportError) as refusal:
        ship(shipment(Branching().eval()), tmp_path / f"net{SUFFIXES[name]}")
    message = str(refusal.value)
    assert message.startswith(f"{name} cannot hold this network: ")
    assert "\n" not in message
    assert len(message) < 400
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_all_that_is_wrong_with_what_is_asked_for_is_said_at_once_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"precision must be one of .* path must end in \.onnx \(onnx\)"):
        ship(shipment(folded()), tmp_path / "new" / "net.txt", precision="float8")
    with pytest.raises(ValueError, match=r"data must be given for int8.* one of float32, float16 for torchscript"):
        ship(shipment(folded()), tmp_path / "new" / "net.pt", precision="int8")
    with pytest.raises(ValueError, match=r"format must be one of onnx, .*, got 'tflite'"):
        ship(shipment(folded()), tmp_path / "net.onnx", format="tflite")
    with pytest.raises(ValueError, match="inputs for a dial, got safetensors"):
        ship(shipment(folded(), None), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"that can be written, .*: it is a folder"):
        ship(shipment(folded()), tmp_path, format="onnx")
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        ship(shipment(folded()), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [{"data": (X, Y)}, {"precision": "int8"}, {"precision": "int8", "data": (X, Y)}])
def test_what_only_a_point_has_is_refused_of_a_dial(asked, tmp_path):
    with pytest.raises(ValueError, match="a dial must be shipped without data, and not as int8"):
        ship(shipment(folded(), None), tmp_path / "net.onnx", **asked)


def test_a_name_wins_over_a_suffix(tmp_path):
    assert ship(shipment(folded()), tmp_path / "net.bin", format="torchscript").format == "torchscript"
    assert torch.jit.load(tmp_path / "net.bin")(X).shape == (40, 5)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_accuracy_before_is_that_of_the_network_and_after_that_of_the_file(precision, tmp_path):
    network = folded()
    exported = ship(shipment(network), tmp_path / "net.onnx", precision=precision, data=(X, Y))
    run = FORMATS["onnx"].run(exported.path, shipment(network))
    assert exported.accuracy_before == float((network(X).argmax(1) == Y).double().mean())
    assert exported.accuracy_after == float((run(X).argmax(1) == Y).double().mean())
    assert exported.nb_bytes == exported.path.stat().st_size
    assert exported.difference <= TOLERANCES[precision]
    assert "accuracy" in str(exported)
    assert f"lam 0.3, width 1, {precision}" in str(exported)


def test_a_network_in_float64_is_shipped_in_float32(tmp_path):
    network = folded().double()
    assert ship(shipment(network), tmp_path / "net.pt2").difference < 1e-5
    assert next(network.parameters()).dtype == torch.float64


def test_a_file_has_the_rights_that_the_umask_gives(tmp_path):
    ship(shipment(folded()), tmp_path / "net.pt")
    (tmp_path / "other").touch()
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("net.pt", "other")]
    assert rights[0] == rights[1]


def test_scores_that_are_not_finite_are_refused(tmp_path):
    network = folded()
    with torch.no_grad():
        next(network.parameters()).mul_(math.inf)
    with pytest.raises(ExportError, match="differs by"):
        ship(shipment(network), tmp_path / "net.pt")


def test_a_full_disk_is_said_as_such(tmp_path, monkeypatch):
    def full(self, shipment, precision, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TorchScript, "write", full)
    with pytest.raises(OSError, match=r"cannot write: No space left on device: .*net\.pt"):
        ship(shipment(folded()), tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())
