"""Networks that this project did not write, from four libraries, and what training them must show; no downloads."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, fold, load_model, save_model, to_conditional
from art_oat.contexts import borrowed_generators
from art_oat.layers import FollowedNorm, NormLayer
from art_oat.layers.filmed import FilmedLayer, Modulation
from art_oat.models import Logits
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.compat.exports import NO_ONNX, exported_differences
from tests.networks import state

LAMBDAS = (0.0, 0.3, 1.0)
UNSEEN = 0.15
NB_CLASSES = 10
NB_SAMPLES = 12
EPS = 0.5 / 255  # so near that a loss is almost a straight line, which the sign of its gradient must lead up
LEARNING_RATE = 0.001
SIDES = ("clean", "adversarial")
EXACT = {"float32": 1e-3, "float64": 1e-9}
"""How far two forms of a network may differ, relative to the largest answer.

Rounding of 6e-8 and 1e-16, enlarged layer by layer: a norm whose statistics come from a few values that hardly differ
divides by their small deviation. The largest seen, over all networks, is 3e-4 in float32 and 5e-13 in float64; of
gradients, where not noted, 7e-10.
"""

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Foreign:
    """One network of another library.

    Attributes:
        source: The library.
        name: What the network is called there, or what it is a small form of.
        make: Returns it, of ten classes.
        size: Height and width of its images.
        frames: How many of them a sample has; None for single images.
        options: What ``to_conditional`` is called with.
        rounding: How exact it is itself, relative to its largest answer, where it is less exact than its dtype.
        has_rough_gradient: Whether inputs moved by one rounding move its own gradient by more than two forms may
            differ; then theirs may differ by as much.
    """

    source: str
    name: str
    make: Callable[[], nn.Module]
    size: int = 32
    frames: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rounding: float = 0.0
    has_rough_gradient: bool = False

    def exact(self, dtype: str) -> float:
        """How far two of its forms may differ, see ``EXACT``."""
        return max(EXACT[dtype], self.rounding)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (3, *(() if self.frames is None else (self.frames,)), self.size, self.size)

    def build(self, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
        """Return a fresh network, always with the same weights."""
        with borrowed_generators(seed=0):
            network = self.make()
        is_clip = len(self.input_shape) == len(("C", "T", "H", "W"))
        layout = torch.channels_last_3d if is_clip and layout == torch.channels_last else layout
        network.to(dtype).to(memory_format=layout)
        return network


@dataclass(frozen=True)
class Trained:
    """What was found of a network after two steps of training.

    Attributes:
        nb_plain: Parameters of the plain network.
        overhead: How many times as many the conditional one has.
        nb_norms: How many norms were converted; without any, how many layers got a FiLM.
        differences: Largest difference of each form from the conditional network, relative to the largest answer:
            ``pinned``, ``folded``, and ``loaded``, a fresh network of the original class with the folded weights;
            ``mixed``, the conditional network asked for one lam per sample. And ``gradient``, that of the pinned
            network's loss with respect to inputs, from the conditional network's, relative to the largest;
            ``exported`` and ``onnx``, see ``exported_differences``.
        others: What else is not as it must be.
        seconds: How long the two steps took, with their attacks.
    """

    nb_plain: int
    overhead: float
    nb_norms: int
    differences: Mapping[str, float]
    others: tuple[str, ...]
    seconds: float

    def faults(self, exact: float) -> list[str]:
        """Say what is not as it must be, where forms of the network may differ by ``exact``."""
        large = {form: value for form, value in self.differences.items() if not value <= exact}
        return [*(f"{form} differs by {value:.1e}" for form, value in large.items()), *self.others]


def train(
    foreign: Foreign, dtype: torch.dtype, layout: torch.memory_format, folder: Path, *, exports: bool = False
) -> Trained:
    """Convert a network, train it for two steps, and try all its forms, an attack, and a way to disk and back.

    Args:
        foreign: Which network.
        dtype: Of its weights.
        layout: Of its weights.
        folder: Where it is saved.
        exports: Whether what is folded is exported, too.
    """
    x, y = _data(foreign, seed=0)
    network = lived(foreign.build(dtype, layout), torch.as_tensor(x).to(dtype))
    model = to_conditional(network, LAMBDAS, **foreign.options)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    classifier = OATClassifier(
        model, nn.CrossEntropyLoss(), foreign.input_shape, NB_CLASSES, optimizer, clip_values=(0, 1)
    )
    before, started = state(model), time.perf_counter()
    OATTrainer(classifier, attack=PGD(EPS, nb_steps=2)).fit(x, y, nb_epochs=1, batch_size=NB_SAMPLES, verbose=False)
    seconds = time.perf_counter() - started
    images, labels = torch.as_tensor(x[:NB_SAMPLES]).to(dtype), torch.as_tensor(y[:NB_SAMPLES])
    images = images if images.dim() != 4 else images.contiguous(memory_format=layout)
    radius, gain = _attacked(classifier, images, labels)
    faults = {f"{path} did not move": True for path in still(model, before, should_move(network, images, labels))}
    faults["not finite"] = not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    # float32 images round a radius of 0.002 in its fifth digit
    faults[f"the attack went {radius} times as far as allowed"] = not radius <= 1 + 1e-4
    faults[f"the attack lowered the loss by {-gain:.1e}"] = not gain >= 0
    differences = _differences(foreign, model, images, layout) | _live_differences(foreign, model, images, labels)
    if exports:
        differences |= exported_differences(fold(model, UNSEEN), images, has_onnx=foreign.name not in NO_ONNX)
    faults["comes back from disk changed"] = not _comes_back(foreign, model, images, layout, folder)
    return Trained(
        nb_plain=sum(parameter.numel() for parameter in network.parameters()),
        overhead=model.overhead,
        nb_norms=sum(isinstance(layer, NormLayer | Modulation) for layer in model.modules()),
        differences=differences,
        others=tuple(fault for fault, is_found in faults.items() if is_found),
        seconds=seconds,
    )


def lived(network: nn.Module, x: Tensor) -> nn.Module:
    """Change the weights of a network a little, and give it the statistics of ``x``, as if it had been trained.

    Fresh ones hide faults, and make some networks overflow: a branch whose last norm starts at zero learns nothing in
    the first step, and fifty layers that do not normalize, with statistics of 0 and 1, give scores beyond any float.
    """
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with borrowed_generators(seed=1), torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn_like(parameter), torch.randn_like(parameter)
            parameter.mul_(1 + 0.1 * noise[0]).add_(0.01 * noise[1])
        for norm in norms:
            norm.momentum = None  # the plain average of all batches, which here is one
        network.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network


def _data(foreign: Foreign, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images of two batches, whose brightness says a little about their class.

    Noise in every pixel would be averaged away layer by layer, until no two images differ and norms divide by nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randperm(2 * NB_SAMPLES, generator=generator) % NB_CLASSES
    _, *extents = foreign.input_shape
    coarse = torch.rand((len(y), 3, *[4] * len(extents)), generator=generator)
    x = nn.functional.interpolate(coarse, extents, mode="nearest")
    brightness = (y / NB_CLASSES).view(-1, *[1] * (x.dim() - 1))
    return (0.7 * x + 0.2 * brightness + 0.1 * torch.rand(x.shape, generator=generator)).numpy(), y.numpy()


def should_move(network: nn.Module, x: Tensor, y: Tensor) -> set[str]:
    """Paths of what a step of the plain network moves by more than rounding: weights with a gradient, statistics.

    A bias before a norm has none, nor has a weight of which a later norm takes out the scale.
    """
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train().zero_grad()
    nn.functional.cross_entropy(network(x), y).backward()
    moved = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    for name, parameter in network.named_parameters():
        step = 0.0 if parameter.grad is None else LEARNING_RATE * float(parameter.grad.abs().max())
        if step > 100 * torch.finfo(x.dtype).eps * float(parameter.detach().abs().max()):
            moved.add(name)
    return moved


def still(model: OATModel, before: Mapping[str, Tensor], expected: set[str]) -> list[str]:
    """Paths of what should have moved and did not, on both sides of every norm; of a FiLM, all of it."""
    after = model.network.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[f"network.{name}"])}
    norms = {_original(path, model): path for path in _norms(model)}
    filmed = {path for path, layer in model.network.named_modules() if isinstance(layer, FilmedLayer)}
    films = {owner: f"{path}.film" for owner, path in norms.items()} | {it: f"{it}.modulation.film" for it in filmed}
    wanted: set[str] = set()
    for name in expected:
        owner, _, leaf = name.rpartition(".")
        if owner in norms:
            wanted |= {f"{norms[owner]}.{side}.{leaf}" for side in SIDES}
        else:
            wanted.add(f"{owner}.layer.{leaf}" if owner in filmed else name)
        if owner in films and leaf == "weight" and not any(other.startswith(films[owner]) for other in moved):
            wanted.add(films[owner])
    return sorted(wanted - moved)


def _norms(model: OATModel) -> dict[str, NormLayer]:
    """Every converted norm, by its path in the network."""
    return {path: layer for path, layer in model.network.named_modules() if isinstance(layer, NormLayer)}


def _original(path: str, model: OATModel) -> str:
    """Where the norm stood that a converted one at ``path`` came from; one that does more is held by a layer."""
    holder = path.rpartition(".")[0]
    return holder if isinstance(model.network.get_submodule(holder), FollowedNorm) else path


def _attacked(classifier: OATClassifier, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Attack at lam 1; return how far that went, in radii, and by how much it raised the loss."""
    network = classifier.at(1.0).as_module()
    x_adv = PGD(EPS, nb_steps=3, has_random_start=False)(network, x, y, clip_values=(0.0, 1.0))
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(network(images), y)) for images in (x, x_adv)]
    return float((x_adv - x).abs().max()) / EPS, losses[1] - losses[0]


def _differences(foreign: Foreign, model: OATModel, x: Tensor, layout: torch.memory_format) -> dict[str, float]:
    """Largest differences of each form from the conditional network, at trained lams and between them."""
    worst: dict[str, float] = dict.fromkeys(("pinned", "folded", "loaded"), 0.0)
    model.eval()
    fresh = foreign.build(x.dtype, layout).eval()
    with torch.no_grad():
        for lam in (0.0, 0.3, UNSEEN):
            expected, folded = model(x, lam=lam), fold(model, lam)
            fresh.load_state_dict(folded.state_dict())
            for name, form in zip(worst, (model.pinned(lam), folded, fresh), strict=True):
                difference = float((form(x) - expected).abs().max() / expected.abs().max())
                worst[name] = max(worst[name], difference) if math.isfinite(difference) else math.inf
    return worst


def _live_differences(foreign: Foreign, model: OATModel, x: Tensor, y: Tensor) -> dict[str, float]:
    """Largest differences of one lam per sample from single ones, and of the pinned network's gradients."""
    lams = torch.tensor([*LAMBDAS, UNSEEN]).to(x).repeat(len(x))[: len(x)]
    with torch.no_grad():
        mixed = model(x, lam=lams)
        alone = torch.cat([model(sample, lam=float(lam)) for sample, lam in zip(x.split(1), lams, strict=True)])
    conditional = partial(model, lam=UNSEEN)
    wanted = _input_gradient(conditional, x, y)
    difference = _difference(_input_gradient(model.pinned(UNSEEN), x, y), wanted)
    if foreign.has_rough_gradient:
        own = [_difference(_input_gradient(conditional, moved, y), wanted) for moved in _moved_by_rounding(x)]
        difference = max(difference - max(own), 0.0)
    return {"mixed": _difference(mixed, alone), "gradient": difference}


def _difference(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


def _input_gradient(form: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    images = x.detach().clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(form(images), y), images)[0]


def _moved_by_rounding(x: Tensor) -> list[Tensor]:
    """Return inputs of which every number is the next one up or down, at random."""
    generator, moved = torch.Generator().manual_seed(0), []
    for _ in range(4):
        up = torch.rand(x.shape, generator=generator) < 0.5
        moved.append(torch.where(up, x.nextafter(torch.full_like(x, math.inf)), x.nextafter(torch.full_like(x, -1.0))))
    return moved


def _comes_back(foreign: Foreign, model: OATModel, x: Tensor, layout: torch.memory_format, folder: Path) -> bool:
    """Whether a network saved and loaded into a fresh plain one gives the same answers in every bit."""
    save_model(model, folder)
    again = load_model(folder, foreign.build(x.dtype, layout))
    with torch.no_grad():
        return all(torch.equal(again.eval()(x, lam=lam), model(x, lam=lam)) for lam in (*LAMBDAS, UNSEEN))


def untrainable_layers(network: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> list[str]:
    """Paths of convolutions that torch does not train right on a processor: strided, 1x1, of few channels, see README.

    Where there is one, refusing to train is the right answer, if it names them all.
    """
    if dtype != torch.float32 or layout != torch.channels_last:
        return []
    return [
        path
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1) != layer.stride
        and layer.groups == 1
        and layer.in_channels < 16
    ]


# --- where the networks come from -------------------------------------------------------------------------------------


def _pytorchcv(path: str, **arguments: Any) -> Callable[[], nn.Module]:
    """A network of pytorchcv, as ``module:constructor``, whose last pooling takes images of any size."""

    def make() -> nn.Module:
        module, constructor = path.split(":")
        network: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), constructor)(**arguments)
        if hasattr(getattr(network, "features", None), "final_pool"):
            network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
        return network

    return make


@cache
def _torchvision(module: str) -> ModuleType:
    with torchvision_importable():
        return importlib.import_module(f"torchvision.models.{module}")


def _vision(path: str, *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    """A network of torchvision, as ``module:constructor``, with its definition's own arguments."""

    def make() -> nn.Module:
        module, constructor = path.split(":")
        network: nn.Module = getattr(_torchvision(module), constructor)(*arguments, num_classes=NB_CLASSES, **named)
        return network

    return make


@cache
def _timm_library() -> ModuleType:
    with torchvision_importable():
        return importlib.import_module("timm")


def _timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    """A network of timm, by its name in the registry there."""

    def make() -> nn.Module:
        network: nn.Module = _timm_library().create_model(name, num_classes=NB_CLASSES, **arguments)
        return network

    return make


def _transformers(name: str, **configuration: Any) -> Callable[[], nn.Module]:
    """A network of transformers for classification, from a configuration: nothing is loaded."""

    def make() -> nn.Module:
        with torchvision_importable():
            library = importlib.import_module("transformers")
            configured = getattr(library, f"{name}Config")(num_labels=NB_CLASSES, **configuration)
            return Logits(getattr(library, f"{name}ForImageClassification")(configured))

    return make


BATCH_NORMS_ALONE = {"keep": lambda _, norm: not isinstance(norm, _BatchNorm)}
"""What to convert a network with that has norms of other kinds, too."""


def _vgg() -> nn.Module:
    """The eight convolutions of VGG-11 with batch norm, a quarter as wide, and one linear layer, as for fine-tuning."""
    library = _torchvision("vgg")
    layers = library.make_layers([16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 512, 512, "M"], batch_norm=True)
    network: nn.Module = library.VGG(layers, num_classes=NB_CLASSES, init_weights=False)
    network.classifier = nn.Linear(512 * 7 * 7, NB_CLASSES)
    return network


def _torchvision_resnet(block: str, *depths: int, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = _torchvision("resnet")
        network: nn.Module = library.ResNet(getattr(library, block), depths, num_classes=NB_CLASSES, **arguments)
        return network

    return make


def _torchvision_regnet(**arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = _torchvision("regnet")
        network: nn.Module = library.RegNet(library.BlockParams.from_init_params(**arguments), num_classes=NB_CLASSES)
        return network

    return make


def _torchvision_efficientnet() -> nn.Module:
    """The first four stages of EfficientNet-B0; no block is dropped, as a norm in it would not learn in two steps."""
    library = _torchvision("efficientnet")
    stages = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 1)]
    network: nn.Module = library.EfficientNet(
        [library.MBConvConfig(*stage) for stage in stages], 0.2, stochastic_depth_prob=0.0, num_classes=NB_CLASSES
    )
    return network


def _of(source: str, *networks: tuple[Any, ...], **named: Any) -> tuple[Foreign, ...]:
    return tuple(Foreign(source, *network, **named) for network in networks)


def _timm_networks(names: str) -> tuple[tuple[Any, ...], ...]:
    return tuple((name, _timm(name), 64) for name in names.split())


def _pytorchcv_networks(paths: str, size: int) -> tuple[tuple[Any, ...], ...]:
    """Read ``module:constructor`` pairs; those for small images have ten classes anyway."""
    named = {} if size == 32 else {"num_classes": NB_CLASSES}
    return tuple((path.partition(":")[2], _pytorchcv(path, **named), size) for path in paths.split())


_SMALL = {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}

QUICK = (
    *_of(
        "torchvision",
        ("resnet10", _torchvision_resnet("BasicBlock", 1, 1, 1, 1)),
        ("vgg11_bn, narrow", _vgg),
        ("densenet, 8 layers", _vision("densenet:DenseNet", 8, (2, 2, 2, 2), 16)),
        ("mobilenet_v2, 0.25", _vision("mobilenetv2:mobilenet_v2", width_mult=0.25)),
        ("mobilenet_v3_small, 0.25", _vision("mobilenetv3:mobilenet_v3_small", width_mult=0.25)),
        ("mobilenet_v3_large, 0.25", _vision("mobilenetv3:mobilenet_v3_large", width_mult=0.25)),
        ("mnasnet, 0.35", _vision("mnasnet:MNASNet", 0.35)),
        ("shufflenet_v2, small", _vision("shufflenetv2:ShuffleNetV2", [1, 1, 1], [8, 16, 32, 64, 128])),
        ("shufflenet_v2_x0_5", _vision("shufflenetv2:shufflenet_v2_x0_5")),
        (
            "regnet_y, small",
            _torchvision_regnet(depth=6, w_0=16, w_a=24.0, w_m=2.5, group_width=8, se_ratio=0.25),
        ),
        ("efficientnet, 4 stages", _torchvision_efficientnet),
    ),
    *_of(
        "torchvision",
        ("maxvit, small", _vision("maxvit:MaxVit", (32, 32), 8, 4, [8, 16], [1, 1], 8, 0.1)),
        options=BATCH_NORMS_ALONE,
    ),
    *_of(
        "pytorchcv",
        *_pytorchcv_networks(
            """resnet_cifar:resnet20_cifar10 preresnet_cifar:preresnet20_cifar10 seresnet_cifar:seresnet20_cifar10
            resdropresnet_cifar:resdropresnet20_cifar10 shakedropresnet_cifar:shakedropresnet20_cifar10""",
            32,
        ),
        *_pytorchcv_networks(
            """mobilenet:mobilenet_wd4 fdmobilenet:fdmobilenet_wd4 mobilenetv2:mobilenetv2_wd4
            shufflenet:shufflenet_g1_wd4""",
            64,
        ),
    ),
    *_of(
        "timm",
        *_timm_networks(
            """test_resnet test_efficientnet test_byobnet mobilenetv3_small_050 mobilenetv4_conv_small_035 lcnet_035
            dla46_c"""
        ),
        ("resnet18d, narrow", _timm("resnet18d", **_SMALL), 64),
        ("seresnet18, narrow", _timm("seresnet18", **_SMALL), 64),
        ("skresnet18, narrow", _timm("skresnet18", **_SMALL), 64),
        ("resnest14d, narrow", _timm("resnest14d", **_SMALL), 64),
        ("resnetblur18, narrow", _timm("resnetblur18", **_SMALL), 64),
        ("densenet121, 8 layers", _timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)), 64),
        ("fasternet_t0, narrow", _timm("fasternet_t0", embed_dim=16, depths=(1, 1, 1, 1), feature_dim=128), 64),
        ("starnet_s1, narrow", _timm("starnet_s1", base_dim=12, depths=(1, 1, 1, 1)), 64),
    ),
    *_of(
        "timm",
        ("mobilevit_xxs", _timm("mobilevit_xxs"), 64),
        options=BATCH_NORMS_ALONE,
    ),
    *_of(
        "transformers",
        (
            "ResNet, basic",
            _transformers("ResNet", embedding_size=16, hidden_sizes=[16, 32, 48], depths=[1, 2, 1], layer_type="basic"),
        ),
        (
            "ResNet, bottleneck",
            _transformers("ResNet", embedding_size=16, hidden_sizes=[32, 48, 64, 64], depths=[1, 1, 1, 1]),
        ),
        (
            "RegNet",
            _transformers(
                "RegNet", embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], groups_width=8
            ),
        ),
        ("MobileNetV1", _transformers("MobileNetV1", depth_multiplier=0.25, image_size=64, initializer_range=0.2), 64),
        (
            "HGNetV2",
            _transformers(
                "HGNetV2", stem_channels=[3, 16, 16], stage_in_channels=[16, 32, 48, 64], embedding_size=16,
                stage_mid_channels=[8, 16, 24, 32], stage_out_channels=[32, 48, 64, 96], stage_num_blocks=[1, 1, 1, 1],
                hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1],
            ),
            64,
        ),
    ),
    *_of(
        "transformers",
        (
            "Levit",
            _transformers(
                "Levit", image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2], depths=[1, 1, 1],
                key_dim=[8, 8, 8],
            ),
            64,
        ),
        has_rough_gradient=True,  # one rounding of x moves it by 5e-3 in float32, by 5e-9 in float64
    ),
    *_of(
        "transformers",
        ("SwiftFormer", _transformers("SwiftFormer", embed_dims=[16, 24, 32, 48], depths=[1, 1, 1, 1]), 64),
        (
            "MobileViT",
            _transformers(
                "MobileViT", image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
                initializer_range=0.2,
            ),
            64,
        ),
        options=BATCH_NORMS_ALONE,
    ),
)  # fmt: skip
"""Networks of which most take about a second."""

SLOW = (
    *_of(
        "torchvision",
        ("resnet18", _vision("resnet:resnet18")),
        ("resnext14", _torchvision_resnet("Bottleneck", 1, 1, 1, 1, groups=4, width_per_group=4)),
        ("googlenet", _vision("googlenet:GoogLeNet", aux_logits=False, init_weights=False)),
        ("inception_v3", _vision("inception:Inception3", aux_logits=False, init_weights=False), 96),
        ("r3d_18", _vision("video.resnet:r3d_18"), 16, 4),
    ),
    *_of(
        "timm",
        *_timm_networks(
            """tinynet_e ghostnet_050 ese_vovnet19b_slim_dw regnetx_002 semnasnet_050 efficientvit_m0 repghostnet_050
            hgnetv2_b0 fastvit_t8 repvgg_a0"""
        ),
    ),
    *_of(
        "transformers",
        ("MobileNetV2", _transformers("MobileNetV2", depth_multiplier=0.35, image_size=64, initializer_range=0.2), 64),
    ),
    *_of(
        "timm",
        ("efficientvit_b0", _timm("efficientvit_b0"), 64),
        options=BATCH_NORMS_ALONE,
        rounding=1e-8,  # its attention computes in float32: x moved by one rounding in float64 moves its scores by 3e-9
    ),
    *_of(
        "pytorchcv",
        *_pytorchcv_networks(
            "diaresnet_cifar:diaresnet20_cifar10 shakeshakeresnet_cifar:shakeshakeresnet20_2x16d_cifar10", 32
        ),
        *_pytorchcv_networks(
            """squeezenext:sqnxt23_w1 igcv3:igcv3_wd4 octresnet:octresnet10_ad2 dicenet:dicenet_wd5 peleenet:peleenet
            vovnet:vovnet27s menet:menet108_8x1_g3""",
            64,
        ),
    ),
)
"""Networks that take longer."""

NOT_YET: dict[str, str] = {}
"""What does not train or come back from disk today, by the name of the network, and why."""

CHECKPOINTED = Foreign(
    "torchvision", "densenet, checkpointed", _vision("densenet:DenseNet", 8, (2, 2, 2, 2), 16, memory_efficient=True)
)
"""A network that computes its activations again in the backward pass."""
