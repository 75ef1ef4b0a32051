"""Convolutions whose weights depend on lam: ``W + lam * D``, where ``D`` is learned or drawn."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from art_oat import OATModel
from art_oat.condition import Condition, current_condition
from art_oat.layers import ConditionalLayer


class Direction(nn.Module, ABC):
    """Where ``lam`` moves the weight of a convolution."""

    @abstractmethod
    def weight(self) -> Tensor:
        """Return ``D``, of the shape of the weight."""


class Learned(Direction):
    """A ``D`` of full size that starts at zero."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.zeros_like(conv.weight))

    def weight(self) -> Tensor:
        return self.whole


class LowRank(Direction):
    """``D = up @ down``, of a rank, where ``up`` starts at zero."""

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        super().__init__()
        down = nn.Conv2d(conv.in_channels, rank, conv.kernel_size, groups=conv.groups, bias=False)  # type: ignore[arg-type]
        self.down, self.up = down.weight, nn.Parameter(conv.weight.new_zeros(conv.out_channels, rank))

    def weight(self) -> Tensor:
        return torch.einsum("or,rihw->oihw", self.up, self.down)


class WeightDial(ConditionalLayer):
    """A convolution whose weight is ``W + lam * D``.

    A batch of several lams takes two convolutions; at one lam, and in a pinned or folded network, it is one.
    """

    def __init__(self, conv: nn.Conv2d, direction: Direction) -> None:
        super().__init__()
        self.conv, self.direction = conv, direction

    def convolved(self, x: Tensor, lam: Tensor) -> Tensor:
        """Convolve ``x [N, C, H, W]``, all at the one lam ``[1]``, or each sample at its own, ``[N]``."""
        conv, step = self.conv, self.direction.weight()
        lam = lam.to(step)
        if len(lam) == 1:
            return conv._conv_forward(x, conv.weight + lam * step, conv.bias)
        moved: Tensor = conv(x) + lam.view(-1, 1, 1, 1) * conv._conv_forward(x, step, None)
        return moved

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, current_condition().of(len(x)).lam)

    def pin(self) -> nn.Module:
        return AtLams(self)

    def update(self, twin: nn.Module, condition: Condition, rows: Tensor) -> None:
        assert isinstance(twin, AtLams)
        twin.lam = condition.lam[rows]

    def fold(self, condition: Condition) -> nn.Module:
        conv = copy.deepcopy(self.conv)
        with torch.no_grad():
            conv.weight.add_(condition.lam * self.direction.weight())
        return conv


class AtLams(nn.Module):
    """A dialed convolution in a pinned network."""

    lam: Tensor

    def __init__(self, dial: WeightDial) -> None:
        super().__init__()
        self.dial = (dial,)  # no submodule: its weights are the trained network's

    def forward(self, x: Tensor) -> Tensor:
        return self.dial[0].convolved(x, self.lam)


def dial_weights(model: OATModel, direction: Callable[[nn.Conv2d], Direction]) -> list[nn.Parameter]:
    """Let every convolution of a network depend on lam, and return the parameters that are new."""
    new: list[nn.Parameter] = []
    for path, part in list(model.network.named_modules()):
        if isinstance(part, nn.Conv2d):
            parent, _, name = path.rpartition(".")
            dial = WeightDial(part, direction(part))
            setattr(model.network.get_submodule(parent), name, dial)
            new += dial.direction.parameters()
    return new
