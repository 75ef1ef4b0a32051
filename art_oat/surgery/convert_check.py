"""The check that a converted network does as the original does, in evaluation and in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn, cast, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from art_oat.condition import Layout, RecomputedError, current_condition
from art_oat.contexts import borrowed_generators
from art_oat.layers import ConditionalLayer, ConvertedLayer, Encoding, Switch
from art_oat.model import OATModel
from art_oat.rebuild import clone_tensor, laid_out, rebuild
from art_oat.surgery.errors import refuse_layers
from art_oat.surgery.selection import is_within
from art_oat.surgery.tracing import call_stack, hooked, real_tensors, running_inputs

_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
_HALF_ROUNDING = 0.1
_ADVICE = (
    "Write the network as modules that are called, without closures over it, and without asking for the type or the "
    "weights of its norms; or name those norms in keep."
)
_MIXES = (
    "with one lam per sample, its samples are not answered by lams of their own. A network may make several samples of "
    "each inside, always as many, those of one side by side or in turn; at a converted norm they must lie along the "
    "first axis (batch_first=True in torch's transformers), none left out, none reordered. Name the norms where that "
    "does not hold in keep"
)


def try_out(model: OATModel, original: nn.Module, input_shape: Sequence[int] | None, like: Tensor) -> None:
    """Refuse a conditional network that does not do as the original; see :class:`ConvertCheck`.

    Args:
        model: The conditional network; notes on what shape it was tried.
        original: What it was made from, or a folded network.
        input_shape: Shape of one sample; None to try common image sizes: where none of them fits, nothing is tried.
        like: Gives the inputs their dtype and device; on the device "meta", nothing is tried.

    Raises:
        UnsupportedModuleError: If the network is refused.
        ValueError: If the original does not run on inputs of the shape.
    """
    if like.device.type == "meta":
        return
    with borrowed_generators(like.device, seed=0), torch.inference_mode(mode=False):
        copy = sharing_copy(original).eval()
        try:
            x = running_inputs(copy, input_shape, like)
        except ValueError:
            if input_shape is not None:
                raise
            return
    ConvertCheck(model, copy, x).run()
    model.tried_shape = tuple(x.shape[1:])


class ConvertCheck:
    """Runs a conditional network as the original is run, on copies of both.

    Args:
        model: Is left as it is, apart from its ``layout``, which is found out.
        original: A copy of the network it was made from, or a folded one, which must answer alike; it is used up.
        x: Inputs, ``[2, ...]``, on which that runs.
    """

    def __init__(self, model: OATModel, original: nn.Module, x: Tensor) -> None:
        self.model = model
        self.original = original.eval()
        self.x = x
        encoding = cast("Encoding", sharing_copy(model.encoding))
        self.converted = OATModel(sharing_copy(model.network), encoding, model.widths).eval()
        self.converted.layout, self.converted.recomputes = model.layout, model.recomputes

    def run(self) -> None:
        """Refuse the network where it does otherwise than the original, by the layers at which that shows.

        In evaluation both must answer alike, every converted norm that the original calls must be called, nothing may
        be computed with what belongs to the network that was converted, and a sample must be answered by its own lam.
        In training it must come through a forward and a backward pass if the original does.
        """
        with borrowed_generators(self.x.device), torch.inference_mode(mode=False):
            self._compare_answers()
            self._find_layout()
            self._train()
        self.model.recomputes = self.converted.recomputes
        if self.converted.layout != self.model.layout:
            self.model.layout = self.converted.layout
            self.model.refresh()

    def _compare_answers(self) -> None:
        norms = converted_paths(self.converted.network)
        with _called(self.original, norms) as wanted:
            expected = _answer(self.original, self.x)
        with _called(self.converted.network, norms) as called, _Strangers(self.model.strangers()) as strangers:
            answer = self._guarded(lambda: _answer(self.converted, self.x))
        faults = dict.fromkeys(strangers.owners(), "the converted network computes with this one's weights")
        left_out = [path for path in norms if path in wanted - called]
        faults |= dict.fromkeys(left_out, "the converted network does not call what takes its place")
        refuse_layers("convert", faults, self.original, _ADVICE)
        if not _are_alike(answer, expected) and _are_alike(_answer(self.original, self.x), expected):
            self._refuse("it does not answer as it did before conversion")

    def _find_layout(self) -> None:
        if len(self.model.lambdas) == 1:
            return
        for layout in get_args(Layout):
            self.converted.layout = layout
            if self._keeps_samples_apart():
                return
        self.converted.layout = self.model.layout
        if self._answers_each_alone():
            refuse_layers("convert", {"": _MIXES}, self.original, "")

    def _keeps_samples_apart(self) -> bool:
        """Whether samples of two lams get the answers that they get among others of their own lam."""
        ends = self.model.lambdas[0], self.model.lambdas[-1]
        for x, lams in ((self.x, ends), (self.x.flip(0), ends[::-1])):  # in one of these, sorted samples change places
            try:
                with _marked(self.converted):
                    mixed = _answer(self.converted, x, x.new_tensor(lams))
                    alone = [_answer(self.converted, x, lam) for lam in lams]
            except RuntimeError:
                return False
            if not all(_are_alike(_rows(mixed, row), _rows(answer, row)) for row, answer in enumerate(alone)):
                return False
        return True

    def _answers_each_alone(self) -> bool:
        """Whether the original answers a sample alike whatever comes with it, so that it tells whose lam was meant."""
        other = self.x.clone()
        other[1] = 1 - other[1]
        return _are_alike(_rows(_answer(self.original, self.x), 0), _rows(_answer(self.original, other), 0))

    def _train(self) -> None:
        lam = torch.linspace(self.model.lambdas[0], self.model.lambdas[-1], len(self.x)).to(self.x)
        for width in dict.fromkeys((self.model.widths[0], 1.0)):
            call = partial(self.converted, self.x, lam, width)
            fault = _training_fault(self.converted.train(), call)
            if fault and isinstance(fault[1], RecomputedError):
                self.converted.recomputes = True
                fault = _training_fault(self.converted, call)
            if fault:
                if not _training_fault(self.original.train(), partial(self.original, self.x)):
                    path, error = fault
                    self._refuse(f"in training it fails, as it did not before conversion: {error}", path)
                return
        self.converted.eval()
        answers = self._guarded(lambda: [_answer(it, self.x) for it in (self.converted, self.converted.pinned())])
        if not _are_alike(*answers) and _are_alike(_answer(self.converted, self.x), answers[0]):
            self._refuse("after training, its plain form answers otherwise")

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns; refuse the layer in which it fails."""
        with call_stack(dict(self.converted.named_modules())) as stack:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
                fault = f"it fails, as it did not before conversion: {error}"
                self._refuse(fault, stack[-1] if stack else "")

    def _refuse(self, fault: str, path: str = "") -> NoReturn:
        """Refuse one layer, by its path in the conditional network."""
        refuse_layers("convert", {path.partition(".")[2]: fault}, self.converted.network, _ADVICE)
        raise AssertionError


def converted_paths(network: nn.Module) -> list[str]:
    """Return the dotted paths of converted norms, as they were before conversion, each once."""
    paths: list[str] = []
    for path, part in network.named_modules():
        layer = part.at(1.0) if isinstance(part, Switch) else part
        if isinstance(layer, ConvertedLayer) and not any(is_within(path, found) for found in paths):
            paths.append(path)
    return paths


def sharing_copy(network: nn.Module) -> nn.Module:
    """Return a copy whose parameters share memory with the originals', with gradients of their own; the rest is cloned.

    Parameters that lie with channels last are cloned, too: torch cannot train all of them so on a processor.
    """

    def carry(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return clone_tensor(tensor)
        return nn.Parameter(laid_out(tensor.detach()), tensor.requires_grad)

    return rebuild(network, lambda _: None, carry)


def _answer(network: nn.Module, x: Tensor, *point: Any) -> Any:
    with borrowed_generators(x.device, seed=0), torch.no_grad():
        return network(x, *point)


def _rows(answer: Any, row: int) -> list[Tensor]:
    return [leaf[row] for leaf in real_tensors(answer) if leaf.dim() and len(leaf) == 2]  # noqa: PLR2004


def _are_alike(answer: Any, expected: Any) -> bool:
    got, wanted = real_tensors(answer), real_tensors(expected)
    return len(got) == len(wanted) and all(map(_is_close, got, wanted))


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
    with ExitStack() as hooks:
        for path in paths:
            part = network.get_submodule(path)
            hooks.enter_context(part.register_forward_pre_hook(lambda _, __, path=path: called.add(path)))
        yield called


@contextmanager
def _marked(model: OATModel) -> Iterator[None]:
    """Within the block, let what each converted norm gives tell the lam of each sample."""

    def mark(_: str, output: Tensor) -> Tensor:
        lam = current_condition().of(len(output)).lam.to(output).unsqueeze(1)
        channels = torch.linspace(0.5, 1, output.shape[1], dtype=output.dtype, device=output.device)
        return output + (lam * channels).view(len(lam), -1, *[1] * (output.dim() - 2))

    with hooked({path: part for path, part in model.named_modules() if isinstance(part, ConditionalLayer)}, after=mark):
        yield


def _training_fault(network: nn.Module, call: Callable[[], Any]) -> tuple[str, Exception] | None:
    """Return where and how a pass forth and back fails; None where it does not."""
    with torch.enable_grad(), call_stack(dict(network.named_modules())) as stack:
        try:
            with borrowed_generators(seed=0):
                terms = [leaf.sum() for leaf in real_tensors(call()) if leaf.requires_grad]
                if terms:
                    torch.stack(terms).sum().backward()
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            return stack[-1] if stack else "", error
    return None


class _Strangers(TorchFunctionMode):
    """Within the block, notes which of some tensors, given by name, are computed with."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._owners = {
            tensor.untyped_storage().data_ptr(): name.rpartition(".")[0]
            for name, tensor in tensors.items()
            if tensor.numel() and tensor.layout == torch.strided
        }
        self._met: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        leaves = [leaf for leaf in leaves if leaf.layout == torch.strided]
        self._met.update(leaf.untyped_storage().data_ptr() for leaf in leaves)
        return func(*args, **(kwargs or {}))

    def owners(self) -> list[str]:
        """Return the paths of the modules that hold them."""
        return list(dict.fromkeys(owner for address, owner in self._owners.items() if address in self._met))
