import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import fold, to_conditional
from art_oat.layers import FollowedNorm, SampleNorm
from art_oat.layers.norm_kinds import is_sample_norm, weight_is_trailing
from art_oat.surgery import UnsupportedModuleError
from art_oat.surgery.builder import norms_of


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class RootMeanSquareNorm(nn.Module):
    """In float32 whatever it gets, as language models have it."""

    def __init__(self, nb_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(nb_channels))

    def forward(self, x):
        short = x.float()
        return self.weight * (short * short.square().mean(-1, keepdim=True).add(1e-6).rsqrt()).to(x)


class GroupNormAct(nn.GroupNorm):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class ResponseNorm(nn.Module):
    """Has weight and bias, but its weight is that of a residual."""

    def __init__(self, nb_channels):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.rand(nb_channels)) for _ in range(2))

    def forward(self, x):
        norm = x.norm(dim=(1, 2), keepdim=True)
        return x + self.bias + self.weight * x * norm / (norm.mean(-1, keepdim=True) + 1e-6)


class NormOfBatch(nn.Module):
    def __init__(self, nb_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(nb_channels))

    def forward(self, x):
        return (x - x.mean(0)) * self.weight


class NormTwice(nn.LayerNorm):
    def forward(self, x):
        return super().forward(super().forward(x))


class NormInEvaluation(nn.LayerNorm):
    """Does something else in training."""

    def forward(self, x):
        result = super().forward(x)
        return result.tanh() if self.training else result


class Scale(nn.Module):
    def __init__(self, nb_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(nb_channels))

    def forward(self, x):
        return x * self.weight


@pytest.mark.parametrize(
    ("norm", "is_trailing"),
    [
        (nn.LayerNorm(3), True),
        (nn.LayerNorm([3, 5]), True),
        (nn.RMSNorm(2), True),
        (nn.GroupNorm(1, 3), False),
        (nn.InstanceNorm2d(3, affine=True), False),
        *[(LayerNorm2d(size), False) for size in (2, 3, 5, 7, 16)],
        *[(RootMeanSquareNorm(size), True) for size in (2, 3, 5, 7, 16)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_where_the_weight_lies_is_found_by_running(norm, is_trailing):
    assert weight_is_trailing(norm) is is_trailing


@pytest.mark.parametrize(
    "norm", [NormOfBatch(3), NormTwice(3), ResponseNorm(3), NormInEvaluation(3)], ids=lambda it: type(it).__name__
)
def test_what_is_no_norm_of_one_sample_that_ends_with_its_weight_is_told_apart(norm):
    with pytest.raises(ValueError, match="no norm of each sample alone that applies its weight and bias last"):
        weight_is_trailing(norm)


@pytest.mark.parametrize(
    ("module", "is_one"),
    [(RootMeanSquareNorm(4), True), (ResponseNorm(4), False), (NormOfBatch(4), False), (Scale(4), False)],
)
def test_a_norm_of_an_unknown_class_is_known_by_name_and_by_what_it_does(module, is_one):
    assert is_sample_norm(module) is is_one
    assert bool(norms_of(nn.Sequential(module))) is is_one


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), LayerNorm2d(4), nn.Conv2d(4, 4, 3), GroupNormAct(2, 4))
        self.response, self.norm, self.head = ResponseNorm(4), RootMeanSquareNorm(4), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.norm(self.response(self.body(x).movedim(1, -1)).mean((1, 2))))


def test_norms_of_other_classes_in_one_network_are_converted_and_fold_into_their_classes():
    torch.manual_seed(0)
    network, x = Net(), torch.rand(3, 1, 8, 8)
    model = to_conditional(network, (0, 0.3, 1), input_shape=(1, 8, 8)).eval()
    kinds = [type(model.network.get_submodule(path)) for path in ("body.1", "body.3", "response", "norm")]
    assert kinds == [SampleNorm, FollowedNorm, ResponseNorm, SampleNorm]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "film" in name or "clean" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    for lam in (0.0, 0.2, 1.0):
        folded = fold(model, lam)
        assert [type(part) for part in folded.modules()] == [type(part) for part in network.modules()]
        torch.testing.assert_close(folded(x), model(x, lam))
        network.load_state_dict(folded.state_dict())
        torch.testing.assert_close(network(x), model(x, lam))


class ActFirst(GroupNormAct):
    def forward(self, x):
        return F.group_norm(self.act(x), self.num_groups, self.weight, self.bias, self.eps)


@pytest.mark.parametrize(
    ("norm", "fault"),
    [
        (lambda: ActFirst(2, 4), "does more with what it holds than to call it after"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.GroupNorm(2, 4), dim=None), "computed from others"),
        (lambda: NormTwice([4, 6, 6]), "no norm of each sample alone"),
        (lambda: nn.InstanceNorm2d(4, affine=True).requires_grad_(requires_grad=False), None),
    ],
)
def test_known_norms_that_cannot_be_converted_are_refused_by_path(norm, fault):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), norm(), nn.Flatten(), nn.Linear(144, 5))
    if fault is None:
        assert not any(it.requires_grad for it in to_conditional(network).network[1].clean.parameters())
        return
    with pytest.raises(UnsupportedModuleError, match=rf"1 \(\w+\): .*{fault}"):
        to_conditional(network)
