"""Networks that this project did not write convert, train, and answer alike in every form afterwards."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.storage import read_rows
from tests.compat.__main__ import RESULTS, nb_right
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.compat.exports import NO_ONNX, exported_differences
from tests.compat.foreign import (
    CHECKPOINTED,
    DTYPES,
    EXACT,
    LAYOUTS,
    NOT_YET,
    QUICK,
    SLOW,
    Foreign,
    train,
    untrainable_layers,
)
from tests.compat.foreign_today import TODAY

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
COMBINATIONS = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]


TAKE_SECONDS = (
    "dla46_c", "efficientnet, 4 stages", "lcnet_035", "mnasnet, 0.35", "mobilenet_v2, 0.25", "mobilenetv2_wd4",
    "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "mobilevit_xxs", "resdropresnet20_cifar10",
    "resnest14d, narrow", "seresnet20_cifar10", "vgg11_bn, narrow",
)  # fmt: skip
QUICK_TODAY = (
    "ConvNeXt", "vit_tiny, small", "ViT", "vit_tiny, RMSNorm", "vit_base_patch16_rope_reg1_gap, small", "DINOv2",
    "DeiT", "BEiT", "cait_xxs24, small", "Swin", "swinv2_tiny, small", "convnext_atto_rms, narrow", "mixer, small",
    "gmlp, small", "resmlp, small", "nfnet, small", "PoolFormer", "FocalNet", "convnext, small", "resnet50_gn, narrow",
    "maxvit, small, all norms",
)  # fmt: skip
A_FEW = [next(it for it in TODAY if it.name == name) for name in QUICK_TODAY]


def cases(networks, *, is_full):
    """One combination of dtype and layout for each network, in turns, or all of them."""
    found = []
    for index, foreign in enumerate(networks):
        for dtype, layout in COMBINATIONS if is_full else [COMBINATIONS[index % len(COMBINATIONS)]]:
            reason = NOT_YET.get(foreign.name)
            marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
            marks += [pytest.mark.slow] if foreign.name in TAKE_SECONDS else []
            name = f"{foreign.source} {foreign.name} {dtype} {layout}"
            found.append(pytest.param(foreign, dtype, layout, id=name, marks=marks))
    return found


def assert_trains(foreign: Foreign, dtype: str, layout: str, folder, *, exports=False) -> None:
    network = foreign.build(DTYPES[dtype], LAYOUTS[layout])
    untrainable = untrainable_layers(network, DTYPES[dtype], LAYOUTS[layout])
    if untrainable:
        with pytest.raises(ValueError, match="must not lie with channels last") as refusal:
            train(foreign, DTYPES[dtype], LAYOUTS[layout], folder)
        assert all(path in str(refusal.value) for path in untrainable)
    else:
        trained = train(foreign, DTYPES[dtype], LAYOUTS[layout], folder, exports=exports)
        assert trained.nb_norms >= 4
        assert trained.faults(foreign.exact(dtype)) == []


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("foreign", "dtype", "layout"), cases(QUICK, is_full=False))
def test_a_foreign_network_trains_and_answers_alike_in_every_form(foreign, dtype, layout, tmp_path):
    assert_trains(foreign, dtype, layout, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("foreign", "dtype", "layout"), cases((*QUICK, *SLOW, *TODAY), is_full=True))
def test_a_foreign_network_trains_in_every_dtype_and_layout(foreign, dtype, layout, tmp_path):
    assert_trains(foreign, dtype, layout, tmp_path, exports=foreign in TODAY and layout == "contiguous")


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("foreign", "dtype", "layout"), cases(A_FEW, is_full=False))
def test_a_foreign_network_without_batch_norm_trains_and_answers_alike_in_every_form(foreign, dtype, layout, tmp_path):
    assert_trains(foreign, dtype, layout, tmp_path)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("foreign", A_FEW[:2], ids=lambda foreign: foreign.name)
def test_a_foreign_network_is_exported_by_torch_and_run_by_onnxruntime(foreign, tmp_path):
    assert_trains(foreign, "float32", "contiguous", tmp_path, exports=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_ONNX)
def test_what_torch_does_not_export_right_as_onnx_it_does_not_before_conversion_either(name):
    foreign = next(it for it in TODAY if it.name == name)
    network = foreign.build(DTYPES["float32"], LAYOUTS["contiguous"]).eval()
    x = torch.rand(2, *foreign.input_shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises((AssertionError, torch.onnx.OnnxExporterError)):
        assert exported_differences(network, x, has_onnx=True)["onnx"] < EXACT["float32"]


def test_at_least_30_foreign_networks_normalize_by_layers_or_groups():
    assert len({(foreign.source, foreign.name) for foreign in TODAY}) == len(TODAY)
    assert len(TODAY) >= 30
    assert {*NO_ONNX, *QUICK_TODAY} <= {foreign.name for foreign in TODAY}
    assert {foreign.source for foreign in TODAY} == {"timm", "torchvision", "transformers"}


def test_the_networks_are_at_least_40_from_four_libraries():
    networks = (*QUICK, *SLOW)
    assert len({(foreign.source, foreign.name) for foreign in networks}) == len(networks)
    assert len(QUICK) >= 40
    assert {foreign.source for foreign in QUICK} == {"pytorchcv", "timm", "torchvision", "transformers"}
    assert {*NOT_YET, *TAKE_SECONDS} <= {foreign.name for foreign in networks}


def test_the_quick_networks_meet_every_dtype_and_layout():
    met = {case.values[1:] for case in cases(QUICK, is_full=False) if case.values[0].name not in TAKE_SECONDS}
    assert met == set(COMBINATIONS)


def test_a_network_with_checkpointing_is_known_as_one():
    assert to_conditional(CHECKPOINTED.build(DTYPES["float32"], LAYOUTS["contiguous"])).recomputes


def test_torchvision_is_borrowed_and_given_back():
    before = {name: part for name, part in sys.modules.items() if name.startswith("torchvision")}
    with torchvision_importable():
        from torchvision.models import resnet
    assert issubclass(resnet.ResNet, nn.Module)
    assert {name: part for name, part in sys.modules.items() if name.startswith("torchvision")} == before


def test_the_guide_gives_the_figure_of_the_study():
    rows = read_rows(RESULTS / "foreign.csv")
    assert rows[0]["made by"].startswith("python -m tests.compat foreign;")
    studied = {(row["source"], row["network"], row["dtype"], row["layout"]) for row in rows}
    assert studied == {
        (foreign.source, foreign.name, dtype, layout)
        for foreign, (dtype, layout) in itertools.product((*QUICK, *SLOW, *TODAY), COMBINATIONS)
    }
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    assert "{} of {} convert and train".format(*nb_right(rows)) in text
    assert "`python -m tests.compat foreign`" in text
