"""Networks of other packages by name: of timm, of torchvision, and of any factory that can be imported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from art_oat.models.registry import ImageTask, near, register_network

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "in_channels": ("in_channels", "in_chans", "num_channels"),
    "nb_classes": ("nb_classes", "num_classes", "n_classes", "num_labels"),
    "image_size": ("image_size", "img_size", "input_size"),
}
"""How factories call what an :class:`ImageTask` says."""


class Logits(nn.Module):
    """A network of which only the scores are wanted, of the answers that transformers' networks give.

    Its ``state_dict`` is that of the network it holds, with names that begin with ``network.``; of a folded one,
    ``fold(model, point).network`` is what the weights come back in.

    Args:
        network: Gives an object or a mapping with ``logits``, ``[N, K]``. It gets the images as ``pixel_values`` where
            its ``forward`` takes such, or else as its first argument.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification         # doctest: +SKIP
        >>> network = Logits(ViTForImageClassification(ViTConfig(num_labels=10)))  # doctest: +SKIP
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.takes_pixel_values = "pixel_values" in inspect.signature(network.forward).parameters
        self.train(network.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores ``[N, K]`` of images ``[N, C, H, W]``.

        Raises:
            TypeError: If what the network gives has no ``logits``.
        """
        answer = self.network(pixel_values=x) if self.takes_pixel_values else self.network(x)
        found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"the network must answer with something that has logits, got {type(answer).__name__}.")
        return found


@register_network(r"timm:([\w.]+)", "timm:convnext_atto (any network of timm)", is_own=False)
def _timm(task: ImageTask, name: str) -> nn.Module:
    timm = _imported("timm", f"timm:{name}")
    if not timm.is_model(name):
        raise ValueError(f"network must be one of timm.list_models(), got {name!r}.{near(name, timm.list_models())}")
    sizes = {"in_chans": task.in_channels, "num_classes": task.nb_classes}

    def build(**size: Any) -> nn.Module:
        network: nn.Module = timm.create_model(name, **sizes, **size)
        return network

    try:
        network = build(img_size=task.image_size)
    except TypeError:  # its size is that of its images
        network = build()
    return _tried(network, task, f"timm:{name}")


@register_network(r"torchvision:(\w+)", "torchvision:resnet50 (any classifier of torchvision)", is_own=False)
def _torchvision(task: ImageTask, name: str) -> nn.Module:
    models = _imported("torchvision.models", f"torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"network must be one of torchvision.models.list_models(), got {name!r}.{near(name, known)}")
    network: nn.Module = models.get_model(name, weights=None, num_classes=task.nb_classes)
    return _tried(network, task, f"torchvision:{name}")


@register_network(
    r"(?!timm:|torchvision:)([\w.]+):(\w+)", "package.module:factory (imported)", is_own=False, is_trusted=False
)
def _factory(task: ImageTask, module: str, name: str) -> nn.Module:
    """Call a function or class with what it takes of the number of channels, of classes and the size of images."""
    called = f"{module}:{name}"
    imported = _imported(module, called)
    factory = getattr(imported, name, None)  # some make what they hold when it is asked for
    if not callable(factory):
        raise ValueError(
            f"network must name something to call, got {called!r}: {module} has no such function or class."
            f"{near(name, [it for it, held in vars(imported).items() if callable(held)])}"
        )
    try:
        network = factory(**_arguments(factory, task))
    except Exception as error:  # whatever code of others may raise
        raise ValueError(f"network {called!r} must be made without further arguments, but: {_told(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{called} must return a torch.nn.Module, got {type(network).__name__}.")
    return _tried(network, task, called)


def _imported(module: str, network: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # not only ImportError: torchvision's wheel fails beside a CPU build of torch
        raise ValueError(
            f"network {network!r} needs {module}, which cannot be imported: {_told(error)}.{_advice(error, module)}"
        ) from error


def _advice(error: Exception, module: str) -> str:
    """Say what to do about a package that cannot be imported."""
    root = module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == root:
        here = "" if root in ("timm", "torchvision") else ", or run where it is"
        return f" Install it: pip install {root}{here}."
    if "torchvision" in str(error):
        return f" torchvision must be built for the torch that is here, {torch.__version__}."
    return ""


def _told(error: Exception) -> str:
    """Return what an error says, in one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _arguments(factory: Callable[..., Any], task: ImageTask) -> dict[str, Any]:
    taken = inspect.signature(factory).parameters
    chosen = {name: next((it for it in synonyms if it in taken), None) for name, synonyms in _SYNONYMS.items()}
    return {own: getattr(task, name) for name, own in chosen.items() if own is not None}


def _tried(network: nn.Module, task: ImageTask, name: str) -> nn.Module:
    """Return a network that gives the right number of scores for such images.

    Raises:
        ValueError: If it does not.
    """
    shape = (2, task.in_channels, *task.image_size)
    is_training = network.training
    parameter = next(network.parameters(), torch.empty(0))
    if parameter.is_meta:  # it is built for its size alone
        return network
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device))
    except Exception as error:  # whatever a network of others may raise
        raise ValueError(f"network {name!r} must take images {list(shape[1:])}, but: {_told(error)}") from error
    finally:
        network.train(is_training)
    given = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if given != [2, task.nb_classes]:
        hint = " art_oat.models.Logits takes the scores out of what transformers' networks give." * isinstance(
            given, str
        )
        raise ValueError(
            f"network {name!r} must give {task.nb_classes} scores for an image, got {given} for two.{hint}"
        )
    return network
