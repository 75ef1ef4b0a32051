import pytest
import torch
from torch import Tensor, distributed, nn

from art_oat.layers.joint_norm import normalize_jointly
from tests.processes import in_processes

SHAPES = ((7, 3), (6, 3, 4), (5, 3, 2, 2))
_SPLITS = {2: (slice(0, 0), slice(0, None)), 4: (slice(0, 1), slice(1, 1), slice(1, 3), slice(3, None))}


def made(shape: tuple[int, ...], momentum: float | None) -> tuple[nn.Module, Tensor, Tensor]:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    generator = torch.Generator().manual_seed(len(shape))
    x, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    norm = kind(3, momentum=momentum).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
    return norm, x + 100, weights


def of_a_part(shape: tuple[int, ...], momentum: float | None) -> list[Tensor]:
    norm, x, weights = made(shape, momentum)
    part = _SPLITS[distributed.get_world_size()][distributed.get_rank()]
    x = x[part].requires_grad_()
    result = normalize_jointly(norm, x)
    (result * weights[part]).sum().backward()
    return [result.detach(), x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("nb", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_a_batch_are_normalized_as_the_whole_one_also_where_one_is_empty(shape, nb, momentum, tmp_path):
    norm, x, weights = made(shape, momentum)
    result = norm(x.requires_grad_())
    (result * weights).sum().backward()
    outs, grads, of_weight, of_bias, *buffers = zip(
        *in_processes(nb, tmp_path, of_a_part, shape, momentum), strict=True
    )
    torch.testing.assert_close(torch.cat(outs), result, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cat(grads), x.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(sum(of_weight), norm.weight.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(sum(of_bias), norm.bias.grad, rtol=0, atol=1e-10)
    for moved, expected in zip(buffers, norm.buffers(), strict=True):
        for each in moved:
            torch.testing.assert_close(each, expected, rtol=1e-12, atol=1e-12)


def of_nothing() -> list[object]:
    norm, x, _ = made((7, 3), 0.1)
    empty = x[:0].requires_grad_()
    result = normalize_jointly(norm, empty)
    return [result is empty, *norm.buffers()]


def test_a_side_that_no_process_has_samples_of_gets_no_gradient_and_keeps_its_statistics(tmp_path):
    norm, _, _ = made((7, 3), 0.1)
    for is_itself, *buffers in in_processes(2, tmp_path, of_nothing):
        assert is_itself
        assert all(torch.equal(found, kept) for found, kept in zip(buffers, norm.buffers(), strict=True))
