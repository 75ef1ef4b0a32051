"""The conversion of a plain network into a conditional one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from art_oat.contexts import borrowed_generators
from art_oat.layers import DEFAULT_LAMBDAS, FILMS, ConvertedLayer, Encoding, Switch
from art_oat.layers.conversion import LayerBuilder
from art_oat.layers.slimmable import check_widths
from art_oat.model import OATModel
from art_oat.network_kinds import advice_for
from art_oat.numbers import is_name_in, plain_sizes, sizes_faults
from art_oat.rebuild import clone_tensor, rebuild
from art_oat.surgery.builder import Conditioning, convert_layer, filmed, norms_of
from art_oat.surgery.convert_check import try_out
from art_oat.surgery.errors import UnsupportedModuleError, refuse_layers
from art_oat.surgery.fold import fold
from art_oat.surgery.selection import Selector, select
from art_oat.surgery.slimming import UNCUT, Slimming, make_slimmable, setting_layers, slim
from art_oat.surgery.tying import tie

Heads = Literal["shared", "per-width"]

_ADVICE = {True: "Norms named in keep stay as they are.", False: "Leave layers that are no norms out of film_on."}
"""What to do about a layer that cannot be converted, by whether it is a norm."""


def to_conditional(
    network: nn.Module,
    lambdas: Iterable[float] = DEFAULT_LAMBDAS,
    *,
    widths: Iterable[float] = (1.0,),
    conditioning: Conditioning | None = None,
    heads: Heads = "shared",
    full_width: Selector = (),
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    **parts: Any,
) -> OATModel:
    """Make a copy of a network conditional on lam: every norm becomes dual and is followed by FiLM.

    With several ``widths`` it is slimmable, too: at width w a layer runs on the first ``ceil(w C)`` of its channels.
    Until it is trained, it answers as ``network`` does, at every lam and width 1 (unless ``film`` is "published").

    Args:
        network: Any network with norms (batch, layer, group, instance or RMS norm); it is left untouched. Dtypes,
            device, hooks and flags carry over.
        lambdas: The lams to train, distinct, in ``[0, 1]``.
        widths: Fractions of channels to train, distinct, in ``(0, 1]``, 1 among them.
        conditioning: How its norms depend on lam; None for the defaults.
        heads: ``"shared"``, or ``"per-width"`` for a last layer of each width (SOLAR, arXiv:2509.16833).
        full_width: Which convolutions and linear layers keep all channels at every width: paths, or a predicate.
        input_shape: Shape of one sample to try the result on; None to try common image sizes.
        seed: What random codes and the start of FiLM are drawn from, in ``[0, 2**32)``.
        parts: Fields of :class:`Conditioning` by name, such as ``film="two-layer"``.

    Raises:
        TypeError: If ``network`` is no module or conditional already, or a name is unknown.
        ValueError: If another argument is not as above; :class:`UnsupportedModuleError` names all layers at fault.
    """
    conditioning = replace(conditioning or Conditioning(), **parts)
    return _Conversion(network, lambdas, widths, conditioning, heads, full_width, input_shape, seed).model()


class _Conversion:
    """A checked call of :func:`to_conditional`, with its arguments."""

    def __init__(
        self,
        network: nn.Module,
        lambdas: Iterable[float],
        widths: Iterable[float],
        conditioning: Conditioning,
        heads: Heads,
        full_width: Selector,
        input_shape: Sequence[int] | None,
        seed: int,
    ) -> None:
        check_network(network)
        if not is_name_in(heads, get_args(Heads)):
            raise ValueError(f"heads must be one of {get_args(Heads)}, got {heads!r}.")
        _check_shape(input_shape)
        input_shape = None if input_shape is None else plain_sizes(input_shape)
        self.network, self.heads, self.input_shape = network, heads, input_shape
        self.encoding = Encoding(lambdas, conditioning.encoding, conditioning.code_dim, seed)
        self.seed = self.encoding.seed
        self.widths = check_widths(widths)
        every_norm = norms_of(network)
        kept = select(conditioning.keep, every_norm, "keep")
        kept_ids = {id(norm) for norm in kept.values()}
        self.norms = {path: norm for path, norm in every_norm.items() if id(norm) not in kept_ids}
        self.filmed = filmed(network, self.norms, conditioning.film_on)
        self.layers = self.norms | self.filmed
        film_on = None if conditioning.film_on is None else list(self.filmed)
        self.conditioning = replace(conditioning, keep=list(kept), film_on=film_on)
        setting = setting_layers(network)
        self.full_width = list(select(full_width, setting, "full_width", "layers that set a number of channels"))
        if not self.layers:
            raise UnsupportedModuleError(
                f"{type(network).__name__} holds no norm to convert: its weights are what depends on lam. Name the "
                "convolutions and linear layers to put a FiLM after in film_on, or call register_conversion for the "
                "type of its norms."
            )

    def arguments(self) -> dict[str, Any]:
        """Return what :func:`to_conditional` makes the same model of, in terms that survive JSON."""
        return {
            "lambdas": self.encoding.lambdas,
            **asdict(self.conditioning),
            "widths": self.widths,
            "heads": self.heads,
            "full_width": self.full_width,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "seed": self.seed,
        }

    def model(self) -> OATModel:
        """Convert the network, and try the result."""
        slimming = self._slimming()
        with borrowed_generators(seed=self.seed):
            layers = self._layers(slimming)
        for width in self.widths:
            tie(self.network, {norm: by_width[width] for norm, by_width in layers.items()})
        joined = {norm: next(iter(at.values())) if len(at) == 1 else Switch(at) for norm, at in layers.items()}
        converted = rebuild(self.network, lambda module: joined.get(id(module)), clone_tensor)
        converted = make_slimmable(converted, slimming, has_own_heads=self.heads == "per-width")
        like = self._like(next(iter(self.layers.values())))
        model = OATModel(converted, self.encoding.to(like), self.widths, self.arguments(), self.network)
        # another start than the identity changes the answers, but the folded network changes with them
        starts_alike = FILMS[self.conditioning.film].starts_as_identity
        try_out(model, self.network if starts_alike else fold(model, model.lambdas[0]), self.input_shape, like)
        return model

    def _slimming(self) -> Slimming:
        """Find how the network is slimmed; where it cannot be, name the norms that cannot be converted, too."""
        try:
            return slim(self.network, self.widths, full_width=self.full_width, input_shape=self.input_shape)
        except UnsupportedModuleError as fault:
            with borrowed_generators(seed=self.seed):
                raise _with_others(fault, lambda: self._layers(UNCUT)) from None

    def _layers(self, slimming: Slimming) -> dict[int, dict[float, ConvertedLayer]]:
        """Convert every layer, by id and width; raise one error for all that cannot be."""
        layers: dict[int, dict[float, ConvertedLayer]] = {}
        faults: dict[str, str] = {}
        for path, layer in self.layers.items():
            if id(layer) in layers:
                continue
            build = self._builder(layer)
            try:
                at = {1.0: convert_layer(layer, build)}
                if path not in self.norms and len(self.widths) > 1:
                    raise ValueError("FiLM after a layer that is no norm needs widths=(1.0,)")
                for width in slimming.widths[:-1]:
                    at[width] = convert_layer(slimming.cut(path, layer, width), build.narrower())
            except ValueError as error:
                faults[path] = str(error)
            else:
                layers[id(layer)] = {width: at[width] for width in slimming.widths}
        advice = {path in self.norms: _ADVICE[path in self.norms] for path in faults}
        refuse_layers("convert", faults, self.network, " ".join(advice.values()))
        return layers

    def _builder(self, layer: nn.Module) -> LayerBuilder:
        has_film = any(filmed is layer for filmed in self.filmed.values())
        film, statistics = self.conditioning.film, self.conditioning.statistics
        return LayerBuilder(film, statistics, self.encoding.dim, has_film, self._like(layer))

    def _like(self, layer: nn.Module) -> Tensor:
        """Return a tensor of the dtype and on the device that a layer computes with; without any, its network."""
        tensors = chain(layer.parameters(), layer.buffers(), self.network.parameters(), self.network.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _with_others(fault: UnsupportedModuleError, step: Callable[[], Any]) -> UnsupportedModuleError:
    """Join a fault and that of another step, if it has one, so that the user hears of all at once."""
    try:
        step()
    except UnsupportedModuleError as other:
        return UnsupportedModuleError(f"{fault} {str(other)[0].upper()}{str(other)[1:]}")
    return fault


def _check_shape(shape: Sequence[int] | None) -> None:
    if shape is not None and sizes_faults({"input_shape": shape}):
        raise ValueError(
            f"input_shape must hold whole numbers above 0, such as (3, 32, 32), or be None, got {shape!r}."
        )


def check_network(network: Any) -> None:
    """Refuse what is no plain network, or one that was wrapped, compiled, scripted or exported.

    Raises:
        TypeError: Saying what to give instead.
    """
    if not isinstance(network, nn.Module):
        what = "the network that was exported" if isinstance(network, torch.export.ExportedProgram) else "a network"
        kind = type(network).__name__
        raise TypeError(f"network must be a torch.nn.Module that is not conditional yet, got {kind}: give {what}.")
    for path, part in network.named_modules():
        where = f" at {path}" if path else ""
        if isinstance(part, OATModel):
            raise TypeError(f"network must be a torch.nn.Module that is not conditional yet, got an OATModel{where}.")
        if (advice := advice_for(part)) is not None:
            raise TypeError(f"network must be an eager torch.nn.Module, got a {type(part).__name__}{where}: {advice}.")
