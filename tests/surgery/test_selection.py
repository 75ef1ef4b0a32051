import pytest
from torch import nn

from art_oat.surgery.selection import select

NORMS = {path: nn.BatchNorm2d(2) for path in ("stem.norm", "layer1.0.norm1", "layer1.1.norm1", "layer10.norm")}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["stem.norm"], ["stem.norm"]),
        (["layer1"], ["layer1.0.norm1", "layer1.1.norm1"]),
        (["layer1.1", "stem"], ["stem.norm", "layer1.1.norm1"]),
        ([], []),
    ],
)
def test_a_path_means_the_norm_there_or_all_that_it_holds(paths, expected):
    assert list(select(paths, NORMS, "keep")) == expected


def test_a_predicate_sees_path_and_norm():
    last = NORMS["layer10.norm"]
    assert list(select(lambda path, norm: "0" in path and norm is last, NORMS, "keep")) == ["layer10.norm"]


def test_unknown_paths_are_all_named_with_what_is_near():
    with pytest.raises(ValueError, match=r"film_on must hold.*'layer1.0.norm' \(near: \['layer1.0.norm1'.*'nothing'"):
        select(["layer1.0.norm", "stem", "nothing"], NORMS, "film_on")


@pytest.mark.parametrize("selector", ["stem.norm", 3])
def test_what_is_neither_paths_nor_a_predicate_is_refused(selector):
    with pytest.raises(TypeError, match="keep must hold dotted paths, or be a predicate"):
        select(selector, NORMS, "keep")
