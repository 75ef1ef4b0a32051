import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from art_oat import OATModel, to_conditional
from art_oat.condition import Condition, conditioned
from art_oat.fast import without_fast_paths
from art_oat.layers import DualBatchNorm, LinearFiLM, PublishedFiLM
from tests.networks import Dense, Residual, SharedNorm, images, resnet, shaken
from tests.pairs import parametrize_in_pairs

LAM = torch.tensor([0.5, 0.0, 1.0, 0.0, 0.1])


def condition(lam: torch.Tensor = LAM, code_dim: int = 4) -> Condition:
    return Condition(lam, torch.randn(len(lam), code_dim, generator=torch.Generator().manual_seed(0)))


def dual(film: LinearFiLM | PublishedFiLM | None = None) -> DualBatchNorm:
    layer = DualBatchNorm(nn.BatchNorm2d(3), film)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    return layer


def run(layer: DualBatchNorm, x: torch.Tensor, lam: torch.Tensor = LAM) -> torch.Tensor:
    with conditioned(condition(lam)):
        return layer(x)


@pytest.mark.parametrize("is_training", [True, False])
def test_each_side_normalizes_its_own_samples(is_training):
    layer, x = dual().train(is_training), torch.randn(5, 3, 4, 4)
    reference = copy.deepcopy(layer)
    expected = torch.empty_like(x)
    expected[LAM == 0] = reference.clean(x[LAM == 0])
    expected[LAM > 0] = reference.adversarial(x[LAM > 0])
    torch.testing.assert_close(run(layer, x), expected)
    torch.testing.assert_close(layer.state_dict(), reference.state_dict())


@pytest.mark.parametrize(("lam", "moving", "resting"), [(0.0, "clean", "adversarial"), (0.3, "adversarial", "clean")])
def test_statistics_move_only_on_the_side_chosen_by_lam(lam, moving, resting):
    layer = dual()
    before = copy.deepcopy(layer.state_dict())
    run(layer, torch.randn(4, 3, 4, 4) + 2, torch.tensor([lam]))
    after = layer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith(resting))
    assert not torch.equal(after[f"{moving}.running_mean"], before[f"{moving}.running_mean"])
    assert after[f"{moving}.num_batches_tracked"] == 1


def test_gradients_reach_the_weights_of_the_chosen_side_only():
    layer = dual()
    run(layer, torch.randn(4, 3, 4, 4), torch.tensor([1.0])).square().sum().backward()
    assert layer.clean.weight.grad is None
    assert layer.adversarial.weight.grad.abs().sum() > 0


def test_a_side_with_one_value_per_channel_uses_running_statistics_and_keeps_them():
    layer, x, lam = dual(), torch.randn(4, 3, 1, 1), torch.tensor([0.0, 0.5, 0.5, 0.5])
    before = copy.deepcopy(layer.clean.state_dict())
    expected = copy.deepcopy(layer.clean).eval()(x[:1])
    torch.testing.assert_close(run(layer, x, lam)[:1], expected)
    torch.testing.assert_close(layer.clean.state_dict(), before, rtol=0, atol=0)


def test_film_follows_the_norm():
    film = PublishedFiLM(4, 3)
    layer, x = dual(film).eval(), torch.randn(5, 3, 4, 4)
    plain = DualBatchNorm(layer.clean, None)
    plain.adversarial = layer.adversarial
    torch.testing.assert_close(run(layer, x), film(run(plain.eval(), x), condition().code))


@pytest.mark.parametrize("film", [None, PublishedFiLM(4, 3)])
def test_merging_gives_the_affine_map_that_the_layer_is_in_evaluation(film):
    layer, x = dual(film).double(), torch.randn(5, 3, 4, 4).double()
    run_condition = Condition(LAM.double(), condition().code.double())
    with conditioned(run_condition):
        layer.train()(x)
        expected = layer.eval()(x)
    scale, shift = layer.merge(run_condition)
    torch.testing.assert_close(x * scale[..., None, None] + shift[..., None, None], expected)


def test_resetting_resets_both_sides_and_film():
    layer = dual(LinearFiLM(4, 3))
    run(layer, torch.randn(5, 3, 4, 4) + 5)
    layer.reset_parameters()
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(run(layer.eval(), x), nn.BatchNorm2d(3).eval()(x))


@pytest.mark.parametrize("nb_samples", [3, 12])
def test_a_batch_that_is_no_multiple_of_its_lams_is_refused(nb_samples):
    with pytest.raises(RuntimeError, match=f"lam holds 5 values, one per sample, but a batch of {nb_samples} reached"):
        run(dual(), torch.randn(nb_samples, 3, 4, 4))


def test_a_layer_outside_a_pass_is_refused():
    with pytest.raises(RuntimeError, match="only inside its OATModel"):
        dual()(torch.randn(4, 3, 4, 4))


ORDERS = {
    "clean ones first": [0.0, 0.0, 0.1, 1.0, 0.4, 0.2],
    "clean ones in between": [0.5, 0.0, 1.0, 0.0, 0.1, 0.0],
    "one clean": [0.2, 0.3, 0.0, 0.4, 1.0, 0.1],
    "one attacked": [0.0, 0.0, 0.3, 0.0, 0.0, 0.0],
    "all clean": [0.0] * 6,
    "all attacked": [0.4] * 6,
}


@parametrize_in_pairs(
    make=[Residual, SharedNorm, Dense, resnet],
    order=ORDERS,
    memory_format=[torch.contiguous_format, torch.channels_last],
)
def test_sides_cut_in_one_operation_teach_as_sides_cut_in_two_and_leave_the_same_statistics(make, order, memory_format):
    model = shaken(make()).to(memory_format=memory_format).train()
    twin, results = copy.deepcopy(model), []
    for network, paths in ((model, ("affine",)), (twin, ("affine", "split"))):
        x, lam = images(6).requires_grad_(), torch.tensor(ORDERS[order], dtype=torch.float64)
        with without_fast_paths(*paths):
            scores = network(x, lam)
            scores.square().sum().backward()
        gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        results.append((scores.detach(), dict(network.named_buffers()), x.grad, gradients))
    (scores, statistics, *gradients), (plain_scores, plain_statistics, *plain_gradients) = results
    assert torch.equal(scores, plain_scores)
    torch.testing.assert_close(statistics, plain_statistics, rtol=0, atol=0)
    # the same terms, summed in another order
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-10, atol=1e-10)


def kept_by(model: OATModel, lam: torch.Tensor, *paths: str) -> int:
    """Bytes that a training pass keeps for its gradient, shared memory once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    switch = without_fast_paths(*paths) if paths else nullcontext()
    with switch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(torch.randn(6, 3, 16, 16), lam).sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("lam", [[0.0] * 6, [1.0] * 6, [0.0, 0.0, 0.1, 0.2, 1.0, 1.0], [1.0, 0.0, 0.1, 0.0, 0.2, 1.0]])
@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_a_film_keeps_nothing_that_its_norm_does_not_keep(lam, statistics):
    """The one thing more that a pass without the fast path keeps are the normalized features, of 8 channels."""
    model = to_conditional(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), statistics=statistics)
    nb_bytes = 6 * 8 * 16 * 16 * 4
    saved = kept_by(model, torch.tensor(lam), "source") - kept_by(model, torch.tensor(lam))
    assert 0.8 * nb_bytes < saved <= nb_bytes  # slopes and offsets are kept in their place, and small


def test_a_pass_in_training_has_the_gradient_of_torch_func():
    model = shaken(Residual())
    tensors = dict(model.named_buffers())
    x, lam = images(6), torch.tensor([0.0, 0.0, 0.1, 0.2, 1.0, 1.0])
    model.train()

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        buffers = {name: it.clone() for name, it in tensors.items()}  # which the pass writes to
        return torch.func.functional_call(model, {**weights, **buffers}, (x, lam)).square().sum()

    weights = {name: it.detach().clone() for name, it in model.named_parameters()}
    found = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(model(x, lam).square().sum(), list(model.parameters()))
    torch.testing.assert_close(list(found.values()), list(expected))


def test_a_source_is_as_good_where_the_mean_of_a_channel_is_a_hundred_times_its_deviation():
    model = to_conditional(nn.Sequential(nn.BatchNorm2d(4))).double()
    with torch.no_grad():
        for weight in model.network[0].film.parameters():
            weight.normal_(std=0.1)
    x, lam = 100 + torch.randn(6, 4, 8, 8, dtype=torch.float64), torch.tensor([0.0, 0.0, 0.1, 0.2, 1.0, 1.0])
    upstream = torch.randn_like(x)

    def gradients(model: OATModel, dtype: torch.dtype) -> list[torch.Tensor]:
        model = copy.deepcopy(model).to(dtype).train()
        model(x.to(dtype), lam).backward(upstream.to(dtype))
        return [weight.grad.double() for weight in model.network[0].film.parameters()]

    for actual, exact in zip(gradients(model, torch.float32), gradients(model, torch.float64), strict=True):
        # float32 rounds x by 6e-8 of 100 deviations, and what is left of the two sums is of the size of one
        assert (actual - exact).abs().max() <= 1e-3 * exact.abs().max()


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("film", ["linear", "two-layer"])
def test_below_the_smallest_trained_lam_scale_and_shift_lie_on_the_line_between_both_sides(statistics, film):
    model = shaken(Residual(), statistics=statistics, film=film)
    layer = model.network.norm
    low, high, between = (model.condition(torch.tensor([lam], dtype=torch.float64)) for lam in (0.0, 0.1, 0.025))
    for actual, start, end in zip(*(layer.affine(condition) for condition in (between, low, high)), strict=True):
        torch.testing.assert_close(actual, 0.75 * start + 0.25 * end)


@pytest.mark.parametrize("make", [Residual, SharedNorm, Dense, resnet])
@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_the_dial_has_no_step_at_zero(make, statistics):
    model, x = shaken(make(), statistics=statistics), images()
    for lam, neighbor in ((0.0, 1e-9), (0.1, 0.1 - 1e-9)):
        torch.testing.assert_close(model.pinned(neighbor)(x), model.pinned(lam)(x), rtol=1e-5, atol=1e-5)


def test_with_one_lam_per_sample_those_between_both_sides_are_blended_and_others_as_they_are():
    model, x = shaken(Residual()), images(4)
    lams = [0.0, 0.04, 0.1, 1.0]
    together = model(x, torch.tensor(lams, dtype=torch.float64))
    alone = torch.cat([model(x[[place]], lam) for place, lam in enumerate(lams)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_beyond_1_scale_and_shift_go_on_in_the_direction_of_the_last_two_trained_lams(statistics):
    layer = (model := shaken(Residual(), statistics=statistics)).network.norm
    low, high, beyond = (model.condition(torch.tensor([lam], dtype=torch.float64)) for lam in (0.4, 1.0, 1.3))
    for actual, start, end in zip(*(layer.affine(condition) for condition in (beyond, low, high)), strict=True):
        torch.testing.assert_close(actual, end + 0.5 * (end - start))
