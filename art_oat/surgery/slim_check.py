"""The check that a network with its layers cut equals the full one with the dropped channels masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from art_oat.condition import Condition, conditioned
from art_oat.layers.slim_rules import Channels, rule_of
from art_oat.layers.slimmable import slimmable
from art_oat.rebuild import rebuild, same_tensor, with_own_children
from art_oat.surgery.diagnosis import diagnose
from art_oat.surgery.tracing import call_stack, hooked, real_tensors, with_dropped

_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}


class SlimCheck:
    """Finds what the layers of a network take and give at one width, and whether that is right.

    The network runs twice. First with its layers cut, each of which takes as many channels as it gets. Then whole, with
    zeros in place of what the cut layers do not give, where each layer sees only as many channels as the cut one took.
    At every layer, and in the end, both must have the same values.

    Args:
        network: Full.
        layers: What can be cut, by dotted path.
        width: In ``(0, 1)``.
        outputs: How many channels the layers give that choose it.

    Attributes:
        channels: By path, what each layer takes and gives, once :meth:`faults_on` has run.
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, nn.Module], width: float, outputs: Mapping[str, int]
    ) -> None:
        self.network = network
        self.layers = layers
        self.width = width
        self.outputs = outputs
        self.channels: dict[str, Channels] = {}
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._taken: dict[str, list[Tensor]] = {}
        self._faults: dict[str, str] = {}

    def faults_on(self, x: Tensor) -> dict[str, str]:
        """Say at which layers it shows that the network cannot be slimmed, and why."""
        with torch.no_grad():
            is_complete = self._compare(x)
        if not self._faults:
            return {}
        named = diagnose(self.network, self.layers, self.outputs, x)
        faults = self._faults | {path: named[path] for path in named if path in self._faults or not is_complete}
        return {path: f"at width {self.width:g} {fault}" for path, fault in faults.items()}

    def _compare(self, x: Tensor) -> bool:
        """Run the network cut and masked; return whether the cut one ran to its end.

        It runs again as long as modules fail when cut, with what these give uncut.
        """
        given: dict[str, list[Any]] = {}
        while True:
            self.channels, self._taken = {}, {}
            answer, failed = self._run_cut(x, given)
            expected, outputs = self._run_masked(x, failed)
            if failed is None or failed in given or not outputs:
                break
            given[failed] = outputs
        answers, wanted = real_tensors(answer), real_tensors(expected)
        if not self._faults and not (len(answers) == len(wanted) and all(map(_is_close, answers, wanted))):
            self._faults[""] = "it does not return what it returns with the dropped channels masked"
        return failed is None

    def _run_cut(self, x: Tensor, given: Mapping[str, list[Any]]) -> tuple[Any, str | None]:
        """Answer with every layer cut; return the path of the module that fails, too, if one does.

        Modules in ``given`` do not run; they give what is listed there.
        """
        network = rebuild(self.network, self._cut, same_tensor)
        parts = dict(network.named_modules())
        for path, outputs in given.items():
            parts[path].forward = _replayed(outputs)
        condition = Condition(x.new_zeros(1), x.new_zeros(1, 1), self.width)
        called = {path: parts[path] for path in self.layers}
        with conditioned(condition), hooked(called, before=self._note), call_stack(parts) as stack:
            try:
                return network(x), None
            except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
                failed = stack[-1] if stack else ""
                self._faults.setdefault(failed, f"its forward fails, as if it counted on all channels: {error}")
        return None, failed

    def _cut(self, module: nn.Module) -> nn.Module | None:
        path = self._paths.get(id(module))
        if path is None:
            return None
        full = rule_of(module).size
        sizes = {self.width: Channels(full.inputs, self.outputs.get(path, full.outputs))}
        return with_own_children(slimmable(module, sizes), self._cut, same_tensor)

    def _note(self, path: str, got: Tensor) -> Tensor:
        """Note what a cut layer takes."""
        rule = rule_of(self.layers[path])
        inputs = got.shape[rule.axis]
        size = Channels(inputs, self.outputs.get(path, rule.size.proportion(inputs)))
        if size != self.channels.setdefault(path, size):
            self._faults.setdefault(
                path, f"it gets {self.channels[path].inputs} channels in one call and {inputs} in another"
            )
        self._taken.setdefault(path, []).append(got.clone())  # what follows may work in place
        return got

    def _run_masked(self, x: Tensor, watched: str | None) -> tuple[Any, list[Any]]:
        """Answer with all channels, dropped ones masked; return what the module ``watched`` gave in its calls, too."""
        outputs: list[Any] = []
        taken: dict[str, Iterator[Tensor]] = {path: iter(tensors) for path, tensors in self._taken.items()}

        def compare(path: str, got: Tensor) -> Tensor:
            wanted = next(taken.get(path, iter(())), None)
            return got if wanted is None else self._compared(path, got, wanted)

        def mask(path: str, output: Tensor) -> Tensor:
            size = self.channels.get(path)
            return output if size is None else with_dropped(output, self.layers[path], size.outputs, 0)

        def keep(_: str, output: Tensor) -> Tensor:
            outputs.append(output.clone())
            return output

        observed = {watched: self.network.get_submodule(watched)} if watched else {}
        with hooked(self.layers, before=compare, after=mask), hooked(observed, after=keep):
            return self.network(x), outputs

    def _compared(self, path: str, got: Tensor, wanted: Tensor) -> Tensor:
        """Compare what a layer gets with what the cut one took, and return what it shall take."""
        first = tuple(slice(length) for length in wanted.shape)  # channels may lie along another axis, too
        if not _is_close(got[first], wanted):
            fault = f"it gets {list(wanted.shape[1:])}, and not what it gets with the dropped channels masked"
            self._faults.setdefault(path, f"{fault}: something before it counts on all channels")
        if got[first].shape != wanted.shape:
            return got
        layer = self.layers[path]
        merged = with_dropped(got, layer, wanted.shape[rule_of(layer).axis], 0)
        merged[first] = wanted  # also where they differ: what comes behind is not to be blamed for it
        return merged


def _replayed(outputs: list[Any]) -> Callable[..., Any]:
    remaining = iter(outputs)
    return lambda *_, **__: next(remaining)


def _is_close(got: Tensor, wanted: Tensor) -> bool:
    if got.shape != wanted.shape:
        return False
    if not wanted.numel():
        return True
    rounding = _ROUNDING[wanted.dtype] * (1 + float(wanted.abs().max()))
    return bool((got - wanted).abs().max() <= rounding)
