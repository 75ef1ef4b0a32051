import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, RandomCropFlip, to_conditional
from art_oat.models import ResNet, WideResNet
from art_oat.training.layout import InputLayout, layout_faults
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, ChannelsLast
from tests.training.trained import Spy, X, Y, classifier_of, fit, is_same, state, trained


def mirror(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x.flip(-1)


def mirror_some(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    is_mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(is_mirrored.view(-1, 1, 1, 1), x.flip(-1), x)


def test_augmentation_comes_before_the_attack_and_the_loss():
    assert is_same(trained(augmentation=mirror), trained(None, X[..., ::-1], Y))
    assert not is_same(trained(augmentation=mirror), trained())


@pytest.mark.parametrize("shape", [(5,), (7, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("channels_first", [True, False])
def test_an_augmentation_gets_any_inputs_with_channels_first_and_they_are_taken_back(shape, channels_first):
    classifier, given, x = make_classifier(channels_first=channels_first), [], torch.rand(4, *shape)
    result = InputLayout(classifier).augmented(x, lambda x, _: given.append(x) or 1 - x, torch.Generator())
    is_moved = not channels_first and len(shape) > 1
    assert torch.equal(given[0], x.movedim(-1, 1) if is_moved else x)
    assert torch.equal(result, 1 - x)


def test_an_augmentation_may_leave_the_range_by_rounding():
    fit(None, np.concatenate([X, np.ones_like(X)]), np.concatenate([Y, Y]), augmentation=lambda x, _: x * (1 + 2e-7))


def test_augmentation_is_drawn_from_the_seed_alone():
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        classifier = make_classifier()
        torch.manual_seed(noise)
        states.append(trained(classifier, augmentation=mirror_some, seed=seed))
    assert is_same(states[0], states[1])
    assert not is_same(states[0], states[2])


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (lambda x, _: x[:, :, 1:], r"augmentation must return a tensor \[10, 1, 6, 6\] .*, got \[10, 1, 5, 6\]"),
        (lambda x, _: x.double(), "as it was given, got .* of torch.float64"),
        (lambda x, _: x.numpy(), "got ndarray"),
        (lambda x, _: x / 0, "the result of augmentation must be finite"),
        (lambda x, _: x + 1, "the result of augmentation must lie within clip_values"),
    ],
)
def test_a_faulty_augmentation_is_refused_before_anything_is_touched(classifier, augmentation, message):
    before = state(classifier)
    with pytest.raises(ValueError, match=message):
        fit(classifier, augmentation=augmentation)
    assert is_same(state(classifier), before)


def colored(*, channels_first, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model = to_conditional(network if channels_first else ChannelsLast(network), LAMBDAS)
    shape = (3, 6, 6) if channels_first else (6, 6, 3)
    return classifier_of(model.to(memory_format=memory_format), input_shape=shape, channels_first=channels_first)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_with_channels_last_are_augmented_and_trained_on_as_those_with_channels_first(memory_format):
    x = np.random.default_rng(0).random((20, 3, 6, 6), dtype=np.float32)
    options = {"attack": PGD(0.1, nb_steps=2, has_random_start=False), "augmentation": RandomCropFlip(1)}
    expected = trained(colored(channels_first=True), x, Y, **options)
    last = colored(channels_first=False, memory_format=memory_format)
    actual = trained(last, x.transpose(0, 2, 3, 1), Y, **options)
    # float32 sums in another order; a gradient that is almost zero may turn, which moves a pixel of one image
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name.replace("network.", "network.network.", 1)], tensor, rtol=0, atol=1e-3)


def test_images_with_channels_last_reach_convolutions_in_the_layout_of_their_weights():
    classifier, seen = colored(channels_first=False, memory_format=torch.channels_last), []
    classifier.model.network.network[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit(classifier, np.random.default_rng(0).random((20, 6, 6, 3), dtype=np.float32), Y)
    assert seen
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.slow(seconds=1)
def test_a_network_with_channels_last_is_trained_on_such_batches_and_to_the_same_weights():
    x, results = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy(), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = to_conditional(ResNet((1, 1), in_channels=3, nb_classes=5, channels=16)).to(memory_format=memory_format)
        classifier, spy = classifier_of(model, 0.05, input_shape=(3, 8, 8)), Spy()
        results.append(trained(classifier, x, Y, attack=spy, augmentation=RandomCropFlip(1), ema=0.9))
        is_last = {each.is_contiguous(memory_format=torch.channels_last) for each in spy.x}
        assert is_last == {memory_format == torch.channels_last}
    assert results[1]["network.stem.0.weight"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)  # float32, summed in another order


def laid_out(network: nn.Module, layout: torch.memory_format, **options):
    return to_conditional(network, **options).to(memory_format=layout)


@pytest.mark.parametrize(
    ("stride", "kernel", "inputs", "is_fault"),
    [(2, 1, 12, True), (2, 1, 16, False), (1, 1, 12, False), (2, 3, 12, False)],
)
def test_what_torch_cannot_train_with_channels_last_is_named(stride, kernel, inputs, is_fault):
    network = nn.Sequential(
        nn.Conv2d(3, inputs, 3), nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 24, kernel, stride), nn.BatchNorm2d(24)
    )
    faults = layout_faults(laid_out(network, torch.channels_last))
    assert bool(faults) is is_fault
    assert all("does not train 2 right" in fault for fault in faults)
    assert layout_faults(laid_out(network, torch.contiguous_format)) == []


def test_a_narrow_width_counts_where_layers_are_too_narrow_for_channels_last():
    model = laid_out(WideResNet(10, 1), torch.channels_last, widths=(0.75, 1.0), input_shape=(3, 32, 32))
    (fault,) = layout_faults(model)
    assert "stages.1.0.shortcut" in fault  # takes 16 channels, and 12 at width 0.75; that of the last stage takes 24
    assert "stages.2.0.shortcut" not in fault
    assert layout_faults(laid_out(WideResNet(10, 1), torch.channels_last)) == []
