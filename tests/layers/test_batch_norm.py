import copy
import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from art_oat.condition import Condition, conditioned
from art_oat.layers import DualAffineBatchNorm, DualBatchNorm, LinearFiLM, PublishedFiLM, batch_norm
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


ORDERS = {
    "clean ones first": [0.0, 0.0, 0.1, 1.0, 0.4, 0.2],
    "clean ones in between": [0.5, 0.0, 1.0, 0.0, 0.1, 0.0],
    "one clean": [0.2, 0.3, 0.0, 0.4, 1.0, 0.1],
    "one attacked": [0.0, 0.0, 0.3, 0.0, 0.0, 0.0],
    "all clean": [0.0] * 6,
    "all attacked": [0.4] * 6,
}


@parametrize_in_pairs(
    order=ORDERS, is_training=[True, False], memory_format=[torch.contiguous_format, torch.channels_last]
)
def test_each_side_normalizes_its_own_samples_and_learns_from_them(order, is_training, memory_format):
    layer, lam = dual().double().train(is_training), torch.tensor(ORDERS[order])
    reference = copy.deepcopy(layer)
    x, upstream = (torch.randn(6, 3, 4, 4, dtype=torch.float64).to(memory_format=memory_format) for _ in range(2))
    answer = run(layer, x.requires_grad_(), lam)
    twin, expected = x.detach().clone().requires_grad_(), torch.empty_like(x)
    for side, chosen in ((reference.clean, lam == 0), (reference.adversarial, lam > 0)):
        if chosen.any():
            expected[chosen] = side(twin[chosen])
    torch.testing.assert_close(answer, expected)
    answer.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, twin.grad)
    torch.testing.assert_close(layer.state_dict(), reference.state_dict())
    gradients, wanted = ([weight.grad for weight in it.parameters()] for it in (layer, reference))
    torch.testing.assert_close(gradients, wanted)


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


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("make", [DualBatchNorm, DualAffineBatchNorm])
@pytest.mark.parametrize("lam", [LAM, torch.zeros(5), torch.ones(5)])
def test_film_in_training_keeps_nothing_of_what_its_norm_gave_and_has_the_same_gradients(make, lam, monkeypatch):
    torch.manual_seed(0)
    layer = make(nn.BatchNorm2d(3), LinearFiLM(4, 3)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    x, given = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True), []

    def gradients():
        norm = batch_norm._normalize
        with monkeypatch.context() as patched:
            patched.setattr(batch_norm, "_normalize", lambda *part: given.append(norm(*part)) or given[-1])
            with conditioned(Condition(lam.double(), condition(lam).code.double())):
                answer = layer(x)
        alive, given[:] = [weakref.ref(each) for each in given], []
        gc.collect()
        return torch.autograd.grad(answer.square().sum(), (x, *layer.parameters()), allow_unused=True), alive

    before = copy.deepcopy(layer.state_dict())
    actual, alive = gradients()
    assert all(each() is None for each in alive)
    layer.load_state_dict(before)
    monkeypatch.setattr(batch_norm, "_not_kept", lambda *_: nullcontext())
    for one, other in zip(actual, gradients()[0], strict=True):
        assert one is other is None or torch.equal(one, other)


def test_film_after_a_norm_in_training_has_second_derivatives():
    layer = dual(LinearFiLM(4, 3)).double()
    with conditioned(Condition(LAM.double(), condition().code.double())):
        x = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda x: layer(x).tanh(), (x,))


def doubled(norm: nn.Module) -> None:
    norm.register_forward_hook(lambda *parts: 2 * parts[-1])


@pytest.mark.parametrize("change", [doubled, nn.Module.eval])
def test_what_a_norm_gives_is_kept_where_it_cannot_be_computed_again_from_what_it_got(change):
    layer = dual(LinearFiLM(4, 3)).double()
    for side in (layer.clean, layer.adversarial):
        change(side)

    def answer(x, scale):
        with conditioned(Condition(LAM.double(), condition().code.double())):
            return torch.func.functional_call(layer, {"film.output.weight": scale}, (x,))

    x = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(answer, (x, layer.film.output.weight.detach().clone().requires_grad_()))


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


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize(
    ("film", "lams", "share"),
    [
        ("linear", (0.0, 0.025, 0.1), 0.25),
        ("two-layer", (0.0, 0.025, 0.1), 0.25),
        ("linear", (0.4, 1.3, 1.0), 1.5),
    ],
)
def test_below_the_smallest_trained_lam_and_beyond_1_scale_and_shift_lie_on_the_line_through_two(
    statistics, film, lams, share
):
    model = shaken(Residual(), statistics=statistics, film=film)
    conditions = [model.condition(torch.tensor([lam], dtype=torch.float64)) for lam in lams]
    for start, actual, end in zip(*map(model.network.norm.affine, conditions), strict=True):
        torch.testing.assert_close(actual, start + share * (end - start))


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
