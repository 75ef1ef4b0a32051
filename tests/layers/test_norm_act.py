import copy

import pytest
import torch
from torch import nn

from art_oat.layers import split
from tests.edge_case_networks import NormActivation


def lived() -> NormActivation:
    norm = NormActivation(3)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
        norm(torch.randn(8, 3, 4, 4) + 1)
    return norm


def test_what_follows_keeps_its_mode_looks_at_no_batch_and_has_nothing_to_train_or_to_save():
    _, rest = split(lived())
    assert rest.train().module.dropout.training
    assert not rest.module.training
    assert not list(rest.parameters())
    assert not rest.state_dict()
    before = copy.deepcopy(list(rest.buffers()))
    rest(torch.randn(4, 3, 5, 5) + 7)
    torch.testing.assert_close(list(rest.buffers()), before, rtol=0, atol=0)


def test_the_parts_of_a_split_norm_do_what_the_whole_does_and_make_it_again():
    norm, x = lived().eval(), torch.randn(4, 3, 5, 5)
    plain, rest = split(copy.deepcopy(norm))
    assert type(plain) is nn.BatchNorm2d
    torch.testing.assert_close(rest(plain(x)), norm(x))
    torch.testing.assert_close(rest(x), torch.nn.functional.silu(x))
    restored = rest.restored(plain)
    assert type(restored) is NormActivation
    torch.testing.assert_close(restored.state_dict(), norm.state_dict())
    torch.testing.assert_close(restored(x), norm(x))


def test_a_norm_made_again_of_its_parts_can_be_exported():
    norm, x = lived().eval(), torch.randn(4, 3, 5, 5)
    plain, rest = split(copy.deepcopy(norm))
    exported = torch.export.export(rest.restored(plain), (x,)).module()
    torch.testing.assert_close(exported(x), norm(x))


class Before(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x.relu())


class Skipping(nn.BatchNorm2d):
    def forward(self, x):
        return x + super().forward(x)


class Odd(nn.BatchNorm2d):
    def forward(self, x, mask):
        return super().forward(x) * mask


class Absolute(nn.BatchNorm2d):
    """Uses its weight in another way, which weights of 1 do not show."""

    def forward(self, x):
        parts = (self.running_mean, self.running_var, self.weight.abs(), self.bias, self.training, self.momentum)
        return nn.functional.batch_norm(x, *parts, self.eps)


class OwnMomentum(nn.BatchNorm2d):
    def forward(self, x):
        parts = (self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.5, self.eps)
        return nn.functional.batch_norm(x, *parts)


@pytest.mark.parametrize("kind", [Before, Skipping, Odd, Absolute, OwnMomentum])
def test_a_norm_that_does_something_else_is_refused(kind):
    with pytest.raises(ValueError, match="overrides forward with something else than batch norm and what follows"):
        split(kind(3))
