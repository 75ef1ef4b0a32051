"""Owns the trial of a converted network: does it do as the original does, in evaluation and in training?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from art_oat.condition import Layout, current_condition
from art_oat.layers import ConditionalLayer, Encoding, FollowedNorm, Switch
from art_oat.model import OATModel
from art_oat.randomness import borrowed_generators
from art_oat.replica import replicate
from art_oat.surgery.observation import followed, real_tensors
from art_oat.surgery.selection import is_within
from art_oat.surgery.unsupported import refuse_layers

_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
_HALF_ROUNDING = 0.1
_ADVICE = (
    "Write the network as modules that are called, without closures over it, and without asking for the type or the "
    "weights of its norms; or name those norms in keep."
)
_MIXES = (
    "with one lam per sample, its samples are not answered by lams of their own. A network may make several samples of "
    "each inside, always as many, those of one side by side or in turn; before a converted norm it may neither leave "
    "some out nor reorder them. Name the norms where that happens in keep"
)


@dataclass(frozen=True)
class Trial:
    """Runs a conditional network as the original is run, on copies of both.

    Args:
        model: Is left as it is, apart from its ``layout``, which is found out.
        original: The network it was made from, or a folded one, which must answer alike; runs on ``x``.
        x: Inputs, ``[2, ...]``.
    """

    model: OATModel
    original: nn.Module
    x: Tensor

    def run(self) -> None:
        """Refuse the network where it does otherwise than the original.

        In evaluation both must answer alike, every converted norm that the original calls must be called, nothing may
        be computed with what belongs to the network that was converted, and a sample must be answered by its own lam.
        In training it must come through a forward and a backward pass if the original does.

        Raises:
            UnsupportedModuleError: If the network is refused; names the layers at which that shows.
        """
        with borrowed_generators(self.x.device), torch.inference_mode(mode=False):
            self._compare_answers()
            layout = self._find_layout()
            for width in dict.fromkeys((self.model.widths[0], 1.0)):
                self._train(layout, width)
        if layout != self.model.layout:
            self.model.layout = layout
            self.model.refresh()

    def _converted(self, layout: Layout | None = None) -> OATModel:
        encoding = cast("Encoding", sharing_copy(self.model.encoding))
        copy = OATModel(sharing_copy(self.model.network), encoding, self.model.widths)
        copy.layout = layout or self.model.layout
        return copy

    def _compare_answers(self) -> None:
        original, converted = sharing_copy(self.original).eval(), self._converted().eval()
        norms = converted_paths(converted.network)
        with _called(original, norms) as wanted:
            expected = _answer(original, self.x)
        with _called(converted.network, norms) as called, _Strangers(self.model.strangers()) as strangers:
            answer = self._guarded(lambda: _answer(converted, self.x), converted)
        faults = dict.fromkeys(strangers.owners(), "the converted network computes with this one's weights")
        faults |= {
            path: "the converted network does not call what takes its place"
            for path in norms
            if path in wanted - called
        }
        refuse_layers("convert", faults, self.original, _ADVICE)
        if not _are_alike(answer, expected) and _are_alike(_answer(original, self.x), expected):
            what = "it does not answer as it did before conversion"
            refuse_layers("convert", {"": what}, self.original, _ADVICE)

    def _find_layout(self) -> Layout:
        if len(self.model.lambdas) == 1:
            return self.model.layout
        layouts: tuple[Layout, ...] = (self.model.layout, *get_args(Layout))
        for layout in dict.fromkeys(layouts):
            if self._keeps_samples_apart(layout):
                return layout
        if not self._answers_each_alone():
            return self.model.layout
        refuse_layers("convert", {"": _MIXES}, self.original, "")
        raise AssertionError

    def _keeps_samples_apart(self, layout: Layout) -> bool:
        """Whether samples of two lams get the answers that they get among others of their own lam."""
        ends = self.model.lambdas[0], self.model.lambdas[-1]
        converted = self._converted(layout).eval()
        for x, lams in ((self.x, ends), (self.x.flip(0), ends[::-1])):  # in one of these, sorted samples change places
            try:
                with _marked(converted):
                    mixed = _answer(converted, x, x.new_tensor(lams))
                    alone = [_answer(converted, x, lam) for lam in lams]
            except RuntimeError:
                return False
            if not all(_are_alike(_rows(mixed, row), _rows(answer, row)) for row, answer in enumerate(alone)):
                return False
        return True

    def _answers_each_alone(self) -> bool:
        """Whether the original answers a sample alike whatever comes with it, so that it tells whose lam was meant."""
        original, other = sharing_copy(self.original).eval(), self.x.clone()
        other[1] = 1 - other[1]
        return _are_alike(_rows(_answer(original, self.x), 0), _rows(_answer(original, other), 0))

    def _train(self, layout: Layout, width: float) -> None:
        converted = self._converted(layout).train()
        lam = torch.linspace(self.model.lambdas[0], self.model.lambdas[-1], len(self.x)).to(self.x)
        fault = _training_fault(converted, lambda: converted(self.x, lam, width))
        if fault is None:
            self._compare_forms(converted.eval())
        elif _is_trainable(self.original, self.x):
            path, error = fault
            what = f"in training it fails, as it did not before conversion: {error}"
            refuse_layers("convert", {path.partition(".")[2]: what}, converted.network, _ADVICE)

    def _compare_forms(self, converted: OATModel) -> None:
        """Refuse a network whose plain form differs after a pass in training, which may have left something behind."""
        answers = self._guarded(lambda: (_answer(converted, self.x), _answer(converted.pinned(), self.x)), converted)
        if not _are_alike(*answers) and _are_alike(_answer(converted, self.x), answers[0]):
            refuse_layers("convert", {"": "after training, its plain form answers otherwise"}, self.original, _ADVICE)

    def _guarded(self, call: Callable[[], Any], converted: OATModel) -> Any:
        """Return what a call returns; refuse the layer in which it fails."""
        with followed(dict(converted.named_modules())) as under_way:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
                path = under_way[-1].partition(".")[2] if under_way else ""
                what = f"it fails, as it did not before conversion: {error}"
        refuse_layers("convert", {path: what}, converted.network, _ADVICE)
        raise AssertionError


def converted_paths(network: nn.Module) -> list[str]:
    """Return the dotted paths of what stands in place of norms, as they were before conversion, each once."""
    paths: list[str] = []
    for path, part in network.named_modules():
        layer = part.at(1.0) if isinstance(part, Switch) else part
        if isinstance(layer, ConditionalLayer | FollowedNorm) and not any(is_within(path, found) for found in paths):
            paths.append(path)
    return paths


def sharing_copy(network: nn.Module) -> nn.Module:
    """Return a copy whose parameters share memory with the originals', with gradients of their own; the rest is cloned.

    Parameters that lie with channels last are cloned, too: torch cannot train all of them so on a processor.
    """

    def carry(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(tensor.detach().contiguous(), tensor.requires_grad)
        return tensor.detach().clone()

    return replicate(network, lambda _: None, carry)


def _answer(network: nn.Module, x: Tensor, *point: Any) -> Any:
    with borrowed_generators(x.device, seed=0), torch.no_grad():
        return network(x, *point)


def _rows(answer: Any, row: int) -> list[Tensor]:
    return [leaf[row] for leaf in real_tensors(answer) if leaf.dim() and len(leaf) == 2]  # noqa: PLR2004


def _are_alike(answer: Any, expected: Any) -> bool:
    pairs = list(zip(real_tensors(answer), real_tensors(expected), strict=False))
    if len(real_tensors(answer)) != len(real_tensors(expected)):
        return False
    return all(_is_close(got, wanted) for got, wanted in pairs)


def _is_close(got: Tensor, wanted: Tensor) -> bool:
    if got.shape != wanted.shape:
        return False
    scale = wanted.abs().max().item() if wanted.numel() else 0.0
    rounding = _ROUNDING.get(wanted.dtype, _HALF_ROUNDING) * (scale + 1e-6)
    return torch.allclose(got, wanted, rtol=0, atol=rounding, equal_nan=True)


@contextmanager
def _called(network: nn.Module, paths: Sequence[str]) -> Iterator[set[str]]:
    """Within the block, collect which of the modules are called."""
    called: set[str] = set()
    handles = [
        network.get_submodule(path).register_forward_pre_hook(lambda _, __, path=path: called.add(path))
        for path in paths
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _marked(model: OATModel) -> Iterator[None]:
    """Within the block, let what each converted norm gives tell the lam of each sample."""

    def mark(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        lam = current_condition().of(len(output)).lam.to(output).unsqueeze(1)
        channels = torch.linspace(0.5, 1, output.shape[1], dtype=output.dtype, device=output.device)
        return output + (lam * channels).view(len(lam), -1, *[1] * (output.dim() - 2))

    handles = [part.register_forward_hook(mark) for part in model.modules() if isinstance(part, ConditionalLayer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _training_fault(network: nn.Module, call: Callable[[], Any]) -> tuple[str, Exception] | None:
    """Return where and how a pass forth and back fails; None where it does not."""
    with torch.enable_grad(), followed(dict(network.named_modules())) as under_way:
        try:
            with borrowed_generators(seed=0):
                terms = [leaf.sum() for leaf in real_tensors(call()) if leaf.requires_grad]
                if terms:
                    torch.stack(terms).sum().backward()
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            return under_way[-1] if under_way else "", error
    return None


def _is_trainable(original: nn.Module, x: Tensor) -> bool:
    network = sharing_copy(original).train()
    return _training_fault(network, lambda: network(x)) is None


class _Strangers(TorchDispatchMode):
    """Within the block, notes which of some tensors, given by name, are computed with."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners = {
            tensor.untyped_storage().data_ptr(): name.rpartition(".")[0]
            for name, tensor in tensors.items()
            if tensor.numel() and tensor.layout == torch.strided
        }
        self._met: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        leaves = [leaf for leaf in leaves if leaf.layout == torch.strided]
        self._met.update(leaf.untyped_storage().data_ptr() for leaf in leaves)
        return func(*args, **(kwargs or {}))

    def owners(self) -> list[str]:
        """Return the paths of the modules that hold them."""
        return list(dict.fromkeys(owner for address, owner in self._owners.items() if address in self._met))
