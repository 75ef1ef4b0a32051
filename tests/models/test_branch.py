import pytest
import torch
from torch.nn.functional import gelu

from art_oat.models.branch import MLP, DropPath, drop_paths


def test_an_mlp_is_its_formula_on_the_last_axis():
    mlp = MLP(3).double()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), gelu(x @ mlp[0].weight.T + mlp[0].bias) @ mlp[2].weight.T + mlp[2].bias)


def test_a_branch_is_left_out_for_whole_samples_and_keeps_its_mean():
    probability, nb_samples = 0.25, 4000
    x = torch.rand(nb_samples, 2, 3) + 1
    ratio = (DropPath(probability)(x) / x).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    is_kept = ratio[:, 0] > 0
    torch.testing.assert_close(ratio[:, 0], is_kept / (1 - probability))
    deviation = (probability / (1 - probability) / nb_samples) ** 0.5
    assert ratio[:, 0].mean().item() == pytest.approx(1, abs=5 * deviation)


@pytest.mark.parametrize(("probability", "is_training"), [(0.0, True), (0.5, False)])
def test_nothing_is_drawn_where_nothing_is_left_out(probability, is_training):
    x, before = torch.rand(3, 2), torch.get_rng_state()
    assert DropPath(probability).train(is_training)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_probabilities_rise_evenly_from_0_to_the_largest():
    assert drop_paths(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_paths(0.3, 1) == [0]


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_out_of_range_is_refused(probability):
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\)"):
        DropPath(probability)
