from pathlib import Path

import pytest

from art_oat.export.formats import FORMATS, named_format


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.onnx", "onnx"),
        ("a.pt2", "torch.export"),
        ("a.pt", "torchscript"),
        ("a.ts", "torchscript"),
        ("a.safetensors", "safetensors"),
    ],
)
def test_a_suffix_tells_the_format_unless_one_is_named(path, name):
    assert named_format(None, Path(path)).name == name
    assert named_format("onnx", Path(path)).name == "onnx"


def test_no_suffix_is_taken_for_two_formats_and_each_is_called_by_its_own_name():
    suffixes = [suffix for kind in FORMATS.values() for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(kind.name == name for name, kind in FORMATS.items())


@pytest.mark.parametrize("name", ["pt2", "", 3, ["onnx"]])
def test_an_unknown_name_is_refused_with_those_that_there_are(name):
    with pytest.raises(ValueError, match=r"^format must be one of onnx, torch\.export, torchscript, safetensors, got"):
        named_format(name, Path("a.onnx"))
