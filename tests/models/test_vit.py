import pytest
import torch
from torch import nn

from art_oat.models import ImageTask, ViT, network_named
from art_oat.models.vit import SelfAttention, TransformerBlock, patch_side
from art_oat.training import parameter_groups
from tests.models.published import nb_parameters

SMALL = ImageTask(in_channels=2, nb_classes=5, image_size=(8, 12))


@pytest.mark.parametrize(("task", "pooling", "nb_tokens"), [(ImageTask(), "mean", 64), (SMALL, "token", 6 + 1)])
def test_its_size_is_that_of_its_layers(task, pooling, nb_tokens):
    network = ViT(12, 3, 2, task=task, pooling=pooling, patch_size=4)
    patches = task.in_channels * 16 * 12 + 12
    blocks = 3 * (12 * 12 * 12 + 13 * 12)
    tokens = 12 * nb_tokens + (12 if pooling == "token" else 0)
    assert nb_parameters(network) == patches + tokens + blocks + 2 * 12 + 13 * task.nb_classes


def test_attention_equals_that_of_torch():
    ours, theirs = SelfAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_a_block_equals_that_of_torch():
    ours = TransformerBlock(12, 3).double().eval()
    theirs = nn.TransformerEncoderLayer(
        12, 3, 48, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True, dtype=torch.float64
    ).eval()
    attention = ours.attention[0]
    theirs.self_attn.in_proj_weight.data, theirs.self_attn.in_proj_bias.data = (
        it.data for it in attention.qkv.parameters()
    )
    theirs.self_attn.out_proj.load_state_dict(attention.output.state_dict())
    theirs.linear1.load_state_dict(ours.mix[0].state_dict())
    theirs.linear2.load_state_dict(ours.mix[2].state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_without_positions_the_order_of_patches_does_not_matter_and_with_them_it_does(pooling):
    network = ViT(12, 2, 2, task=SMALL, patch_size=4, pooling=pooling).double().eval()
    x = torch.rand(2, 2, 8, 12, dtype=torch.float64)
    moved = x.roll((4, 8), dims=(2, 3))  # by whole patches
    assert not torch.allclose(network(moved), network(x))
    nn.init.zeros_(network.positions)
    torch.testing.assert_close(network(moved), network(x))


def test_the_class_token_alone_is_scored_where_it_pools():
    network = ViT(12, 1, 2, task=SMALL, patch_size=4, pooling="token").double().eval()
    nn.init.zeros_(network.blocks[0].attention[0].output.weight)  # nothing of the patches reaches it
    scores = network(torch.rand(2, 2, 8, 12, dtype=torch.float64))
    torch.testing.assert_close(scores[0], scores[1])


def test_samples_do_not_meet_and_second_derivatives_are_right():
    network = ViT(12, 1, 2, task=SMALL, patch_size=4, drop_path=0.5, dropout=0.5).double().eval()
    x = torch.rand(3, 2, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))
    weight = torch.randn(1, 2, 8, 12, dtype=torch.float64) * 1e-1
    assert torch.autograd.gradgradcheck(
        lambda scale: network(x[:1] + scale * weight), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize(
    ("size", "side"),
    [((8, 8), 1), ((28, 28), 4), ((32, 32), 4), ((96, 96), 12), ((8, 32), 2), ((5, 7), 1), ((97, 97), 97)],
)
def test_patches_are_the_smallest_of_which_there_are_64_or_fewer(size, side):
    assert patch_side(size) == side
    assert network_named("vit-32-1", in_channels=1, image_size=size).patches.kernel_size == (side, side)


def test_faulty_arguments_are_refused_at_once_and_images_of_another_shape():
    with pytest.raises(
        ValueError,
        match=r"depth .* got 0.* dropout .* got 1.* channels must be a multiple of nb_heads, 5.* patch_size must "
        r"divide .*\(8, 12\), got 3.* pooling must be one of .* got 'max'",
    ):
        ViT(12, 0, 5, task=SMALL, patch_size=3, dropout=1, pooling="max")
    with pytest.raises(ValueError, match=r"images must have shape \[2, 8, 12\], got \[2, 8, 8\]"):
        ViT(12, 1, 2, task=SMALL, patch_size=4)(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="must be a multiple of 32, got 40"):
        network_named("vit-40-2")


def test_positions_and_class_token_do_not_decay():
    network = ViT(32, 1, 1, pooling="token")
    decaying, spared = parameter_groups(network, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert {id(network.positions), id(network.token)} <= {id(parameter) for parameter in spared["params"]}
