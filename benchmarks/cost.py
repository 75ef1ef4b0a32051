"""What an action costs: the memory of its tensors, and its FLOPs by torch's formulas."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, optim
from torch.autograd.profiler import profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Action = Callable[[], object]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_START = "the step that counts"


class Memory(NamedTuple):
    """Bytes of tensors that lie there between two steps, and the most that a step needs above that."""

    held: int
    above: int


def memory_of(build: Callable[[], Action]) -> Memory:
    """Build an action, take it once, and follow what it allocates and frees when it is taken again."""
    return (_on_gpu if DEVICE.type == "cuda" else _on_processor)(build)


def _on_processor(build: Callable[[], Action]) -> Memory:
    """Follow it from the start: the profiler does not see that something is freed unless it saw it allocated."""
    gc.collect()  # what is left in cycles must not be freed within, neither from before nor from the first time
    with profile(profile_memory=True) as trace:
        action = build()
        action()
        gc.collect()
        with record_function(_START):
            pass
        action()
    held = now = most = 0
    for event in sorted(trace.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == _START:
            held = most = now
        elif event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return Memory(held, most - held)


def _on_gpu(build: Callable[[], Action]) -> Memory:
    before = torch.cuda.memory_allocated()
    action = build()
    action()
    gc.collect()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    return Memory(held - before, torch.cuda.max_memory_allocated() - held)


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """Let optimizers set gradients to zero within the block, where they would drop them."""
    original = optim.Optimizer.zero_grad
    try:
        optim.Optimizer.zero_grad = lambda optimizer: original(optimizer, set_to_none=False)  # type: ignore[method-assign]
        yield
    finally:
        optim.Optimizer.zero_grad = original  # type: ignore[method-assign]


def _convolution_gradients(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any, out_val: Any) -> int:
    """Return the FLOPs of the gradients to input and weight, each of which takes as many as the way forward.

    torch's own formula takes the gradient to the weight of a grouped convolution for one of all channels with all: 96
    times what it is for the depthwise convolutions of ConvNeXt's first stage.
    """
    del out_val
    *_, is_transposed, _, _, (is_to_input, is_to_weight, _) = others
    nb_places = (x if is_transposed else gradient)[:, 0].numel()
    return 2 * weight.numel() * nb_places * (is_to_input + is_to_weight)


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_gradients}


class Arithmetic(TorchDispatchMode):
    """Counts FLOPs within its block by torch's formulas, calls that compute tensors, and convolutions of each kind.

    ``FlopCounterMode`` itself follows modules, too, and fails where an attack asks for the gradient of inputs alone.
    """

    KINDS = ("forward", "gradient to input", "gradient to weight")

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.nb_calls = 0
        self.convolutions: dict[str, Counter[tuple[Any, ...]]] = {kind: Counter() for kind in self.KINDS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.nb_calls += isinstance(result, Tensor | tuple | list) and not func.is_view
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
            self._note(func, *map(_described, args))
        return result

    def _note(self, func: Any, *described: Any) -> None:
        forward, to_input, to_weight = self.convolutions.values()
        if func is torch.ops.aten.convolution.default:
            forward[func, *described] += 1
        elif func is torch.ops.aten.convolution_backward.default:
            *others, (is_to_input, is_to_weight, _) = described  # which are two computations
            to_input[func, *others, (True, False, False)] += is_to_input
            to_weight[func, *others, (False, True, False)] += is_to_weight

    def again(self, kind: str) -> Action:
        """Return an action that takes all convolutions of a kind again, alone, of random tensors."""
        calls = [
            (func, [it.made() if isinstance(it, _Like) else it for it in described], count)
            for (func, *described), count in self.convolutions[kind].items()
        ]

        def take() -> None:
            for func, arguments, count in calls:
                for _ in range(count):
                    func(*arguments)

        return take


class _Like(NamedTuple):
    """What about a tensor decides how long a convolution of it takes."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        size = 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return torch.randn(size, dtype=self.dtype, device=DEVICE).as_strided(self.shape, self.strides)


def _described(argument: Any) -> Any:
    """Return an argument as something that can be counted."""
    if isinstance(argument, Tensor):
        return _Like(argument.shape, argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def arithmetic_of(action: Action) -> Arithmetic:
    with Arithmetic() as arithmetic:
        action()
    return arithmetic
