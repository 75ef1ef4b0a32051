"""Networks of other libraries with layer, group, instance and RMS norms, or with none at all; no downloads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from tests.compat.borrowed_torchvision import torchvision_importable
from tests.compat.foreign import (
    BATCH_NORMS_ALONE,
    NB_CLASSES,
    QUICK,
    SLOW,
    _of,
    _timm,
    _torchvision,
    _transformers,
    _vision,
)


def _timm_class(path: str, *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    """A network of timm, as ``module:class``, where the constructor in its registry fixes the size."""

    def make() -> nn.Module:
        module, kind = path.split(":")
        with torchvision_importable():
            library = importlib.import_module(f"timm.models.{module}")
        network: nn.Module = getattr(library, kind)(*arguments, num_classes=NB_CLASSES, **named)
        return network

    return make


def _mixer(**layers: str) -> Callable[[], nn.Module]:
    """Two blocks of timm's MLP networks, with layers that its module names."""

    def make() -> nn.Module:
        with torchvision_importable():
            library = importlib.import_module("timm.models.mlp_mixer")
        kinds = {argument: getattr(library, name) for argument, name in layers.items()}
        network: nn.Module = library.MlpMixer(
            NB_CLASSES, 32, patch_size=8, num_blocks=2, embed_dim=32, mlp_ratio=4, **kinds
        )
        return network

    return make


def _nfnet() -> nn.Module:
    """A network without norms: convolutions with standardized weights and a gain."""
    with torchvision_importable():
        library = importlib.import_module("timm.models.nfnet")
    sizes = {"depths": (1, 1, 1, 1), "channels": (32, 48, 64, 64), "stem_chs": 16, "num_features": 96}
    network: nn.Module = library.NormFreeNet(
        library.NfCfg(**sizes, group_size=8, bottle_ratio=0.25, attn_layer="se", attn_kwargs={"rd_ratio": 0.5}),
        num_classes=NB_CLASSES,
    )
    return network


def _coatnet(block: str) -> Callable[[], nn.Module]:
    """Two stages of convolutions and two of attention, with norms of both kinds."""

    def make() -> nn.Module:
        with torchvision_importable():
            library = importlib.import_module("timm.models.maxxvit")
        sizes = {"embed_dim": (16, 32, 32, 64), "depths": (1, 1, 1, 1), "stem_width": (8, 16)}
        kinds = {"block_type": ("C", "C", "T", "T")}
        shape = {
            "conv_cfg": library.MaxxVitConvCfg(block_type=block),
            "transformer_cfg": library.MaxxVitTransformerCfg(dim_head=8, window_size=(2, 2)),
        }
        network: nn.Module = library.MaxxVit(
            library.MaxxVitCfg(**sizes, **kinds, **shape), img_size=64, num_classes=NB_CLASSES
        )
        return network

    return make


def _swin_v2() -> nn.Module:
    library = _torchvision("swin_transformer")
    network: nn.Module = library.SwinTransformer(
        [2, 2], 16, [1, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=NB_CLASSES,
        block=library.SwinTransformerBlockV2, downsample_layer=library.PatchMergingV2,
    )  # fmt: skip
    return network


def _convnext() -> nn.Module:
    library = _torchvision("convnext")
    stages = [library.CNBlockConfig(*stage) for stage in ((16, 24, 1), (24, 32, 1), (32, None, 1))]
    network: nn.Module = library.ConvNeXt(stages, num_classes=NB_CLASSES)
    return network


def _mobilenet_with_groups() -> nn.Module:
    library = _torchvision("mobilenetv2")
    network: nn.Module = library.MobileNetV2(NB_CLASSES, 0.25, norm_layer=partial(nn.GroupNorm, 4))
    return network


def _resnet(block: str, norm: Callable[[int], nn.Module], **arguments: Any) -> Callable[[], nn.Module]:
    """One block in each stage of torchvision's ResNet, with a norm of the user's choice."""

    def make() -> nn.Module:
        library = _torchvision("resnet")
        network: nn.Module = library.ResNet(
            getattr(library, block), [1, 1, 1, 1], num_classes=NB_CLASSES, norm_layer=norm, **arguments
        )
        return network

    return make


_STAGES = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
_TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_WINDOWS = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)}
_PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48)}
_ENCODER = {
    "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64,
}  # fmt: skip
_ENCODER_OF_DINO = {key: value for key, value in _ENCODER.items() if key != "intermediate_size"}
_WINDOWS_OF_TRANSFORMERS = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4,
    "drop_path_rate": 0.0,
}  # fmt: skip
_HIDDEN = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_HEADS = {"num_attention_heads": [1, 1, 2, 2]}
FILM_ON_LINEAR = {"film_on": lambda _, layer: isinstance(layer, nn.Linear)}
FILM_ON_CONVOLUTIONS = {"film_on": lambda _, layer: isinstance(layer, nn.Conv2d)}

TODAY = (
    *_of(
        "timm",
        ("convnext_atto, narrow", _timm("convnext_atto", **_STAGES)),
        ("convnext_atto_rms, narrow", _timm("convnext_atto_rms", **_STAGES)),
        ("convnextv2_atto, narrow", _timm("convnextv2_atto", **_STAGES)),
        ("test_vit", _timm("test_vit", img_size=32, patch_size=8)),
        ("vit_tiny, small", _timm("vit_tiny_patch16_224", **_TOKENS)),
        ("vit_tiny, mean", _timm("vit_tiny_patch16_224", global_pool="avg", class_token=False, **_TOKENS)),
        ("vit_tiny, RMSNorm", _timm("vit_tiny_patch16_224", norm_layer="rmsnorm", qk_norm=True, **_TOKENS)),
        ("vit_small_patch14_reg4_dinov2, small", _timm("vit_small_patch14_reg4_dinov2", **_TOKENS)),
        ("vit_base_patch16_rope_reg1_gap, small", _timm("vit_base_patch16_rope_reg1_gap_256", **_TOKENS)),
        ("deit_tiny_distilled, small", _timm("deit_tiny_distilled_patch16_224", **_TOKENS)),
        ("deit3_small, small", _timm("deit3_small_patch16_224", **_TOKENS)),
        ("beit_base, small", _timm("beit_base_patch16_224", **_TOKENS)),
        ("eva02_tiny, small", _timm("eva02_tiny_patch14_224", **_TOKENS)),
        ("samvit_base, small", _timm("samvit_base_patch16", global_attn_indexes=(1,), **_TOKENS)),
        ("cait_xxs24, small", _timm("cait_xxs24_224", depth_token_only=1, **_TOKENS)),
        ("convit_tiny, small", _timm("convit_tiny", local_up_to_layer=1, **{**_TOKENS, "embed_dim": 16})),
        ("swin_tiny, small", _timm("swin_tiny_patch4_window7_224", **_WINDOWS)),
        ("swinv2_tiny, small", _timm("swinv2_tiny_window8_256", **_WINDOWS)),
        ("xcit_nano, small", _timm("xcit_nano_12_p8_224", img_size=32, embed_dim=32, depth=2, num_heads=2)),
        ("mixer, small", _mixer()),
        ("gmlp, small", _mixer(block_layer="SpatialGatingBlock", mlp_layer="GatedMlp")),
        ("pvt_v2_b0, narrow", _timm("pvt_v2_b0", num_heads=(1, 1, 2, 2), **_PYRAMID)),
        ("poolformer, small", _timm_class("metaformer:MetaFormer", **_STAGES)),
        ("focalnet, small", _timm_class("focalnet:FocalNet", embed_dim=16, depths=(1, 1, 1, 1))),
        ("edgenext_xx_small, narrow", _timm("edgenext_xx_small", dims=(16, 24, 32, 48), depths=(1, 2, 2, 2))),
        ("mambaout_femto, narrow", _timm("mambaout_femto", **_STAGES)),
        ("resnet50_gn, narrow", _timm("resnet50_gn", layers=(1, 1, 1, 1), channels=(32, 32, 64, 64))),
    ),
    *_of(
        "timm",
        ("coat_lite, small", _timm("coat_lite_tiny", img_size=64, embed_dims=(16, 24, 32, 48),
                                   serial_depths=(1, 1, 1, 1), num_heads=8), 64),
        ("coatnet, small", _coatnet("mbconv"), 64),
        ("coatnext, small", _coatnet("convnext"), 64),
        ("crossvit, small", _timm_class("crossvit:CrossVit", img_size=48, img_scale=(1.0, 2 / 3), patch_size=(12, 16),
                                        embed_dim=(16, 32), depth=((1, 1, 0),) * 2, num_heads=(2, 2)), 48),
        ("davit_tiny, narrow", _timm("davit_tiny", depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48),
                                     num_heads=(1, 2, 2, 4), window_size=2), 64),
        ("efficientformer_l1, narrow", _timm("efficientformer_l1", depths=(1, 1, 1, 2), embed_dims=(16, 24, 32, 48)),
         224),
        ("gcvit, small", _timm_class("gcvit:GlobalContextVit", img_size=64, window_size=(2, 2, 2, 2), embed_dim=16,
                                     depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4)), 64),
        ("hiera, small", _timm("hiera_tiny_224", img_size=(64, 64), embed_dim=16, stages=(1, 1, 1, 1),
                               mask_unit_size=(4, 4)), 64),
        ("nest, small", _timm_class("nest:Nest", img_size=64, embed_dims=(16, 32, 48), num_heads=(2, 2, 2),
                                    depths=(1, 1, 1)), 64),
        ("pit_ti, small", _timm("pit_ti_224", img_size=64, base_dims=(8, 8, 8), depth=(1, 1, 1), heads=(2, 4, 4)), 64),
        ("tnt, small", _timm("tnt_s_legacy_patch16_224", img_size=32, embed_dim=32, inner_dim=8, depth=2,
                             num_heads_inner=2, num_heads_outer=2), 32),
        ("twins_svt_small, narrow", _timm("twins_svt_small", img_size=64, embed_dims=(16, 32, 32, 64),
                                          depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), wss=(4, 4, 2, 2)), 64),
        ("visformer_tiny, narrow", _timm("visformer_tiny", img_size=64, embed_dim=48, depth=(1, 1, 1)), 64),
        ("resnetv2_bit, narrow", _timm_class("resnetv2:ResNetV2", (1, 1, 1, 1), (128, 128, 128, 128), stem_chs=32), 64),
    ),
    *_of("timm", ("resmlp, small", _mixer(block_layer="ResBlock", norm_layer="Affine")), options=FILM_ON_LINEAR),
    *_of("timm", ("nfnet, small", _nfnet, 64), options=FILM_ON_CONVOLUTIONS),
    *_of(
        "transformers",
        ("ViT", _transformers("ViT", **_ENCODER)),
        ("ViT-MSN", _transformers("ViTMSN", **_ENCODER)),
        ("DeiT", _transformers("DeiT", **_ENCODER)),
        ("BEiT", _transformers("Beit", drop_path_rate=0.0, **_ENCODER)),
        ("Data2Vec", _transformers("Data2VecVision", drop_path_rate=0.0, **_ENCODER)),
        ("I-JEPA", _transformers("IJepa", **_ENCODER)),
        ("DINOv2", _transformers("Dinov2", **_ENCODER_OF_DINO)),
        ("DINOv2 with registers", _transformers("Dinov2WithRegisters", **_ENCODER_OF_DINO)),
        ("Swin", _transformers("Swin", **_WINDOWS_OF_TRANSFORMERS)),
        ("SwinV2", _transformers("Swinv2", **_WINDOWS_OF_TRANSFORMERS)),
        ("ConvNeXt", _transformers("ConvNext", **_HIDDEN)),
        ("ConvNeXtV2", _transformers("ConvNextV2", **_HIDDEN)),
        ("PoolFormer", _transformers("PoolFormer", **_HIDDEN)),
        ("FocalNet", _transformers("FocalNet", image_size=32, embed_dim=16, depths=[1, 1], hidden_sizes=[16, 32],
                                   focal_levels=[2, 2], focal_windows=[3, 3], drop_path_rate=0.0)),
        ("PVT", _transformers("Pvt", image_size=64, drop_path_rate=0.0, **_HIDDEN, **_HEADS), 64),
        ("PVTv2", _transformers("PvtV2", image_size=32, drop_path_rate=0.0, **_HIDDEN, **_HEADS)),
        ("SegFormer", _transformers("Segformer", drop_path_rate=0.0, **_HIDDEN, **_HEADS), 64),
        ("CvT", _transformers("Cvt", embed_dim=[16, 32, 48], num_heads=[1, 2, 2], depth=[1, 2, 3],
                              drop_path_rate=[0.0, 0.0, 0.0]), 64),
        ("BiT", _transformers("Bit", embedding_size=32, hidden_sizes=[128, 128, 128, 128], depths=[1, 1, 1, 1]), 64),
    ),
    *_of(
        "torchvision",
        ("vit, small", _vision("vision_transformer:VisionTransformer", 32, 8, 2, 2, 32, 64)),
        ("swin, small", _vision("swin_transformer:SwinTransformer", [2, 2], 16, [1, 2], [2, 4], [4, 4],
                                stochastic_depth_prob=0.0)),
        ("swin_v2, small", _swin_v2),
        ("convnext, small", _convnext),
        ("resnet10, GroupNorm", _resnet("BasicBlock", partial(nn.GroupNorm, 8))),
        ("resnet14, GroupNorm", _resnet("Bottleneck", partial(nn.GroupNorm, 4), width_per_group=4)),
        ("resnet10, InstanceNorm", _resnet("BasicBlock", partial(nn.InstanceNorm2d, affine=True)), 64),
        ("mobilenet_v2, GroupNorm", _mobilenet_with_groups, 64),
    ),
    *(
        replace(it, name=f"{it.name}, all norms", options={})
        for it in (*QUICK, *SLOW) if it.options is BATCH_NORMS_ALONE
    ),
)  # fmt: skip
"""One block per stage, or two, and narrow. Most take half a second."""
