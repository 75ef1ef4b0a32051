"""Random small networks with whatever people write in a forward, and the check that conversion keeps what they do."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from art_oat import OATModel, fold, to_conditional
from art_oat.contexts import borrowed_generators
from art_oat.surgery import UnsupportedModuleError
from tests.networks import counterpart

LAMBDAS = (0.0, 0.3, 1.0)
UNSEEN = 0.15
NB_SAMPLES = 6
NB_SEEDS = 500
NB_CLASSES = 5
ROUNDING = 1e-10
"""In float64; of some hundred additions it is 1e-14, and norms over few values enlarge it."""

Build = Callable[["Draw", int], nn.Module]


class Draw:
    """Draws layers of one number of dimensions.

    Args:
        seed: What everything is drawn from.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nb_axes = self.random.choice([1, 2, 2, 2, 3])

    def layer(self, name: str, *arguments: Any, **named: Any) -> nn.Module:
        """Return a layer such as ``Conv`` in the number of dimensions."""
        layer: nn.Module = getattr(nn, f"{name}{self.nb_axes}d")(*arguments, **named)
        return layer

    def conv(self, before: int, after: int) -> nn.Module:
        """Return a convolution that keeps the size of maps, dense, grouped or depthwise."""
        kernel = self.random.choice([1, 3])
        groups = self.random.choice([1, 1, 2, before])
        groups = groups if before % groups == 0 and after % groups == 0 else 1
        has_bias = self.random.random() < 0.3
        return self.layer("Conv", before, after, kernel, padding=kernel // 2, groups=groups, bias=has_bias)

    def norm(self, nb_channels: int) -> nn.Module:
        """Return a batch norm, now and then an unusual one."""
        kind = self.random.choice(["plain"] * 8 + ["bare", "cumulative", "followed", "hooked"])
        if kind == "bare":
            return self.layer("BatchNorm", nb_channels, affine=False)
        if kind == "cumulative":
            return self.layer("BatchNorm", nb_channels, momentum=None)
        if kind == "followed" and self.nb_axes == 2:
            return NormActivation(nb_channels)
        norm = self.layer("BatchNorm", nb_channels, momentum=self.random.choice([0.1, 0.3]))
        if kind == "hooked":
            norm.register_forward_hook(_halve)
        return norm

    def activation(self) -> Callable[[Tensor], Tensor]:
        """Return a module or a function, in place or not."""
        make = self.random.choice(
            [
                lambda: nn.ReLU(inplace=True),
                nn.ReLU,
                lambda: nn.SiLU(inplace=True),
                lambda: nn.LeakyReLU(0.1, inplace=True),
                lambda: nn.Hardswish(inplace=True),
                nn.PReLU,
                lambda: torch.relu_,
                lambda: F.gelu,
                lambda: torch.tanh,
                lambda: functools.partial(F.leaky_relu, negative_slope=0.2, inplace=True),
                HalveInPlace,
            ]
        )
        activation: Callable[[Tensor], Tensor] = make()
        return activation

    def block(self, nb_channels: int) -> Block:
        """Return any block of the common ones."""
        return self.random.choice(COMMON)(self, nb_channels)


def _halve(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output * 0.5


class HalveInPlace(nn.Module):
    """Multiplies in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


class NormActivation(nn.BatchNorm2d):
    """A norm with dropout and activation inside."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__(nb_channels)
        self.dropout, self.activation = nn.Dropout(0.2), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dropout(super().forward(x)))


class Block(nn.Module):
    """Convolution, norm and activation; subclasses do something else with these parts.

    Attributes:
        nb_channels: How many it returns.
    """

    def __init__(self, draw: Draw, nb_channels: int) -> None:
        super().__init__()
        self.nb_channels = nb_channels
        self.conv, self.norm = draw.conv(nb_channels, nb_channels), draw.norm(nb_channels)
        self.activation = draw.activation()
        self.extend(draw, nb_channels)

    def extend(self, draw: Draw, nb_channels: int) -> None:
        """Add parts, or exchange them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Widening(Block):
    """Changes the number of channels."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.nb_channels = draw.random.choice([4, 6, 8])
        self.conv, self.norm = draw.conv(nb_channels, self.nb_channels), draw.norm(self.nb_channels)


class PreActivation(Block):
    """Norm and activation first, after a copy of what others hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.activation(self.norm(x)))


class ResidualInPlace(Block):
    """Adds the shortcut in place."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += x
        return self.activation(out)


class MultipliesInPlace(Block):
    """Scales a norm's answer by a weight, in place."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.scale = nn.Parameter(torch.full((nb_channels, *[1] * draw.nb_axes), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out.mul_(2).add_(0.1)
        return self.activation(out * self.scale)


class AssignsSlices(Block):
    """Writes into some channels of a norm's answer."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out[:, ::2] = torch.relu(out[:, ::2])
        out[:, 1:2] *= 0.5
        out[:, :1].relu_()
        return self.activation(out + x)


class CalledTwice(Block):
    """One convolution and one norm, called twice."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.activation(self.norm(self.conv(x)))
        return x


class SharedNorm(Block):
    """One norm after two convolutions, in a list beside."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.other = draw.conv(nb_channels, nb_channels)
        self.in_order = [(self.conv, self.norm), (self.other, self.norm)]

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in self.in_order:
            x = self.activation(norm(conv(x)))
        return x


class TiedWeights(Block):
    """Two convolutions of one weight, the second a function."""

    def forward(self, x: Tensor) -> Tensor:
        once = self.activation(self.norm(self.conv(x)))
        return once + self.conv._conv_forward(x, self.conv.weight, None)


class Concatenates(Block):
    """Hands on what it got beside what it made of it."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.nb_channels = nb_channels + 2
        self.conv, self.norm = draw.conv(nb_channels, 2), draw.norm(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.activation(self.norm(self.conv(x)))], dim=1)


class Splits(Block):
    """Takes halves apart, changes one and shuffles them together."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        half = nb_channels // 2
        self.conv, self.norm = draw.conv(half, half), draw.norm(half)

    def forward(self, x: Tensor) -> Tensor:
        half = self.nb_channels // 2
        first, second = x[:, :half], x[:, half : 2 * half]
        first = self.activation(self.norm(self.conv(first)))
        joined = torch.stack([first, second], dim=2).flatten(1, 2)
        return torch.cat([joined, x[:, 2 * half :]], dim=1)


class SqueezeExcite(Block):
    """Weighs channels by their means, with a norm among them."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.squeeze = nn.Linear(nb_channels, 4)
        self.squeezed = nn.BatchNorm1d(4)
        self.excite = nn.Linear(4, nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        means = out.flatten(2).mean(dim=2)
        gate = torch.sigmoid(self.excite(F.relu(self.squeezed(self.squeeze(means)), inplace=True)))
        return self.activation(out * gate.view(*gate.shape, *[1] * (x.dim() - 2)))


class Pools(Block):
    """Pools, by a layer or a function."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.pool = draw.random.choice(
            [
                draw.layer("MaxPool", 2, ceil_mode=True),
                draw.layer("AvgPool", 3, 1, 1),
                functools.partial(getattr(F, f"adaptive_avg_pool{draw.nb_axes}d"), output_size=3),
                functools.partial(F.interpolate, scale_factor=1.5, mode="nearest"),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.pool(self.conv(x))))


class Drops(Block):
    """Drops out in place right after the norm."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.dropout = draw.random.choice([nn.Dropout(0.3, inplace=True), nn.Dropout1d(0.2), None])

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        if self.dropout is None or (x.dim() != 3 and isinstance(self.dropout, nn.Dropout1d)):
            return self.activation(F.dropout(out, 0.3, self.training, inplace=True))
        return self.activation(self.dropout(out))


class DropsPath(Block):
    """Leaves its branch out for some samples in training."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.activation(self.norm(self.conv(x)))
        if self.training:
            is_kept = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype) < 0.8
            branch = branch * is_kept / 0.8
        return x + branch


class Loops(Block):
    """Calls layers out of lists of modules."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.convs = nn.ModuleList([self.conv, draw.conv(nb_channels, nb_channels)])
        self.norms = nn.ModuleDict({"0": self.norm, "1": draw.norm(nb_channels)})

    def forward(self, x: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            x = self.activation(self.norms[str(index)](conv(x)))
        return x


class ReturnsTuple(Block):
    """Has a part that returns two tensors and a dict."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.inner = Inner(draw, nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        out, (skip, named) = self.inner(x)
        return self.activation(self.norm(out + skip)) + named["mean"]


class Inner(Block):
    def forward(self, x: Tensor) -> Any:
        out = self.norm(self.conv(x))
        return out, (x, {"mean": out.flatten(1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))})


class Partial(Block):
    """Calls its norm through a partial function and through a bound method."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.calls = [functools.partial(_call, self.conv), functools.partial(_call, self.norm), self.norm.__call__]

    def forward(self, x: Tensor) -> Tensor:
        for call in self.calls:
            x = call(x)
        return self.activation(x)


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x)
    return out


class InTrainingOnly(Block):
    """Has a norm that only training calls, and one that only evaluation does."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.aside, self.unused = draw.norm(nb_channels), draw.norm(nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm(self.conv(x)))
        return out + 0.1 * (self.aside(x) if self.training else self.unused(x))


class Detaches(Block):
    """Hands a norm's answer on without gradient, beside one with."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        return self.activation(out - 0.5 * out.detach().mean(dim=1, keepdim=True)) + self.norm(x).detach()


class UsedTwice(Block):
    """Uses a norm's answer before it is changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        before = out + x
        out.add_(1)
        return self.activation(out) + before


class ChannelsFirstInMemory(Block):
    """Gives its norm maps whose axes are not in order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        turned = self.conv(x).transpose(1, -1).contiguous().transpose(1, -1)
        return self.activation(self.norm(turned))


class Lines(Block):
    """Normalizes maps as lines of all their places."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.line = nn.BatchNorm1d(nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.line(self.norm(self.conv(x)).flatten(2)).view_as(x)
        return self.activation(out)


class Closure(Block):
    """Calls its norm through a function that holds this very layer: a copy of the network would call the original's."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        norm = self.norm
        self.normalized = lambda x: norm(x) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.normalized(self.conv(x)))


class ReplacedForward(Block):
    """Has the forward of its convolution replaced by a function that holds the old one."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        before = self.conv.forward
        self.conv.forward = lambda x: 2 * before(x)


class Tokens(Block):
    """Takes places for samples in its norm."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.line = nn.BatchNorm1d(nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        tokens = out.flatten(2).transpose(1, 2)
        tokens = self.line(tokens.flatten(0, 1)).view_as(tokens)
        return self.activation(tokens.transpose(1, 2).reshape(x.shape))


class Checkpointed(Block):
    """Computes its activations again in the backward pass, once converted: torch's norms would count them twice."""

    def forward(self, x: Tensor) -> Tensor:
        is_plain = isinstance(self.norm, _BatchNorm)
        out = self.norm(self.conv(x)) if is_plain else checkpoint(self._normalized, x, use_reentrant=False)
        return self.activation(out)

    def _normalized(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class OtherNorm(Block):
    """Holds a norm of another kind, too."""

    def extend(self, draw: Draw, nb_channels: int) -> None:
        self.norm = nn.Sequential(self.norm, nn.GroupNorm(1, nb_channels))


COMMON: Sequence[type[Block]] = (
    Block, Widening, PreActivation, ResidualInPlace, MultipliesInPlace, AssignsSlices, CalledTwice, SharedNorm,
    TiedWeights, Concatenates, Splits, SqueezeExcite, Pools, Drops, DropsPath, Loops, ReturnsTuple, Partial,
    InTrainingOnly, Detaches, UsedTwice, ChannelsFirstInMemory, Lines, Tokens,
)  # fmt: skip
"""What must come out right."""


REFUSED: Mapping[type[Block], tuple[str, str]] = {
    Closure: ("a function holds a layer of the network", ""),
    ReplacedForward: ("a forward was replaced by a function that holds the old one", ""),
}
"""What cannot be converted or trained: why, and what the error must say of it."""

LAST: Sequence[type[Block]] = (Closure, ReplacedForward, OtherNorm, Checkpointed)
"""What a network may end with: what must be refused, and what once had to be."""


class Network(nn.Module):
    """A stem, some blocks at random, perhaps one of ``LAST``, and a head.

    Attributes:
        refusal: Why it must be refused, and what the error must say; None where it must not be.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = Draw(seed)
        self.input_shape = (2, *[{1: 12, 2: 6, 3: 4}[draw.nb_axes]] * draw.nb_axes)
        self.stem = draw.layer("Conv", 2, 4, 3, padding=1)
        blocks, nb_channels = [], 4
        for _ in range(draw.random.choice([2, 3, 4])):
            blocks.append(draw.block(nb_channels))
            nb_channels = blocks[-1].nb_channels
        self.refusal: tuple[str, str] | None = None
        if draw.random.random() < 0.2:
            kind = draw.random.choice(LAST)
            blocks.append(kind(draw, nb_channels))
            self.refusal = REFUSED.get(kind)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(nb_channels, NB_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(2).mean(dim=2))


def build(seed: int) -> Network:
    """Return the network of a seed, always with the same weights, in float64."""
    with borrowed_generators(seed=seed):
        network = Network(seed).double()
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, _BatchNorm) and part.affine:
                    part.weight.add_(0.2 * torch.randn_like(part.weight))
                    part.bias.add_(0.2 * torch.randn_like(part.bias))
            for index in range(3):
                network.train()(batch(network, index)[0])
    return network.eval()


def batch(network: Network, index: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels."""
    generator = torch.Generator().manual_seed(index)
    x = torch.rand((NB_SAMPLES, *network.input_shape), dtype=torch.float64, generator=generator)
    return x, torch.randint(NB_CLASSES, (NB_SAMPLES,), generator=generator)


def check(seed: int) -> str:
    """Return ``"right"``, or ``"refused: ..."`` where the network is one that is.

    Raises:
        AssertionError: If the converted network does anything else than it should, or is not refused.
        Exception: If it, or the plain network, does not run.
    """
    step(plain := build(seed), plain)
    step(plain, plain.train())
    error, refusal = _error_of(seed), plain.refusal
    if refusal is None:
        if error is not None:
            raise error
        return "right"
    what, text = refusal
    assert error is not None, f"not refused: {what}"
    if not isinstance(error, UnsupportedModuleError) or text not in str(error):
        raise error
    return f"refused: {what}"


def _error_of(seed: int) -> Exception | None:
    """Return what keeps a network from being converted and trained right; None where nothing does."""
    try:
        check_conversion(seed)
        for lam in (0.0, 0.3):
            check_step(seed, lam)
        check_training(seed)
    except Exception as error:  # noqa: BLE001 - what a conversion may raise is looked at by who calls
        return error
    return None


def check_conversion(seed: int) -> None:
    """A converted network answers as the plain one, and calls every norm that the plain one calls."""
    plain = build(seed)
    model, (x, _) = to_conditional(plain, LAMBDAS, code_dim=4), batch(plain, 0)
    with torch.no_grad():
        for lam in (*LAMBDAS, UNSEEN):
            assert_close(model(x, lam=lam), plain(x), "converted")
    norms = [path for path, part in plain.named_modules() if isinstance(part, _BatchNorm)]
    for mode in (False, True):
        # a pass in training without a lam may be one for statistics alone, on both sides in turn
        answers = functools.partial(model.train(mode), lam=0.0), plain.train(mode)
        calls = called(answers[0], model.network, norms, x), called(answers[1], plain, norms, x)
        assert calls[0] == calls[1], f"calls {calls[0]} where the plain network calls {calls[1]}"


def called(answer: Callable[[Tensor], Tensor], holder: nn.Module, paths: Sequence[str], x: Tensor) -> list[str]:
    """Return the paths of the norms that ``answer`` calls, in order."""
    calls: list[str] = []
    handles = [
        holder.get_submodule(path).register_forward_pre_hook(lambda _, __, path=path: calls.append(path))
        for path in paths
    ]
    with torch.no_grad():
        answer(x)
    for handle in handles:
        handle.remove()
    return calls


def check_step(seed: int, lam: float) -> None:
    """Without FiLM, and at one lam, a step of training is that of the plain network, on the norms of one side."""
    plain = build(seed)
    model = to_conditional(build(seed), LAMBDAS, code_dim=4, film_on=(), input_shape=plain.input_shape)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    assert_close(step(plain, functools.partial(model.train(), lam=lam)), step(plain, plain.train()), "loss")
    side, other = ("clean", "adversarial") if lam == 0 else ("adversarial", "clean")
    own = dict(model.network.named_parameters(remove_duplicate=False))
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        path = counterpart(model.network, name, side)
        gradient = own[path].grad
        assert (gradient is None) == (parameter.grad is None), f"{path} has a gradient: {gradient is not None}"
        if parameter.grad is not None:
            assert_close(gradient, parameter.grad, f"gradient of {path}")
    after = model.network.state_dict()
    for name, buffer in plain.named_buffers():
        assert_close(after[counterpart(model.network, name, side)], buffer, f"{name} on its side")
        path = counterpart(model.network, name, other)
        assert torch.equal(after[path], before[path]), f"{path} moved at lam {lam}"


def check_training(seed: int) -> None:
    """Gradients reach all weights, and after two steps all forms answer alike, at one lam and at one per sample."""
    plain = build(seed)
    model = to_conditional(build(seed), LAMBDAS, code_dim=4, input_shape=plain.input_shape)
    lam = torch.tensor([0.0, 0.3, 1.0, 0.3, 0.0, 0.0], dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    step(plain, plain.train())
    for index in range(2):
        optimizer.zero_grad()
        step(plain, functools.partial(model.train(), lam=lam), index)
        if not index:
            check_gradients(plain, model)
        optimizer.step()
    model.eval()
    x, _ = batch(plain, 2)
    lams = (*LAMBDAS, UNSEEN, 0.6, 0.9)
    with torch.no_grad():
        answers = {at: model(x, lam=at) for at in lams}
        for at, expected in answers.items():
            for name, form in forms(seed, model, at).items():
                assert_close(form(x), expected, f"{name} at lam {at}")
        each = torch.stack([answers[at][index] for index, at in enumerate(lams)])
        assert_close(model(x, lam=torch.tensor(lams, dtype=torch.float64)), each, "one lam per sample")


def forms(seed: int, model: OATModel, lam: float) -> dict[str, nn.Module]:
    """Return every plain network that must answer as the conditional one does at a lam."""
    folded, fresh = fold(model, lam), build(seed)
    found = {"pinned": model.pinned(lam), "folded": folded}
    if all(part.affine for part in fresh.modules() if isinstance(part, _BatchNorm)):  # others get weights, by FiLM
        fresh.load_state_dict(folded.state_dict())
        found["loaded"] = fresh
    return found


def check_gradients(plain: nn.Module, model: OATModel) -> None:
    """What has a gradient in a step of the plain network has one on both sides of the converted."""
    own = dict(model.network.named_parameters(remove_duplicate=False))
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        if parameter.grad is None or float(parameter.grad.abs().max()) < ROUNDING:
            continue
        for path in {counterpart(model.network, name, side) for side in ("clean", "adversarial")}:
            gradient = own[path].grad
            assert gradient is not None, f"{path} has no gradient"
            assert float(gradient.abs().max()) > 0, f"{path} has a gradient of 0"


def step(plain: Network, answer: Callable[[Tensor], Tensor], index: int = 0) -> Tensor:
    """Add the gradient of a batch of ``plain``'s, as ``answer`` answers; random draws are the same in every call."""
    x, y = batch(plain, index)
    with borrowed_generators(seed=index):
        loss = F.cross_entropy(answer(x), y)
        loss.backward()
    return loss.detach()


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Compare relative to the largest value."""
    difference = float((actual - expected).detach().abs().max())
    size = float(expected.detach().abs().max())
    assert difference <= ROUNDING * max(size, 1e-3), (
        f"{what} differs by {difference:.1e}, where the largest is {size:.1e}"
    )
