"""Whatever a network does with its layers, it is converted right, or refused by path before anything is trained."""

import functools
import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import PGD, OATClassifier, OATTrainer, fold, to_conditional
from art_oat.surgery import UnsupportedModuleError
from art_oat.surgery.convert_check import sharing_copy
from tests.networks import conv, images, labels


class Plain(nn.Module):
    """Two convolutions with norms and a head; subclasses call them in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(1, 4), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = conv(4, 4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def features(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu_()
        return self.norm2(self.conv2(x)).relu_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))


def trained_on(network: nn.Module, shape: tuple[int, ...] = (1, 6, 6), **options: object) -> OATClassifier:
    """Convert a network, as a user does, and train it for two steps."""
    torch.manual_seed(0)
    model = to_conditional(network, (0, 0.5, 1), **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), shape, 5, optimizer, clip_values=(0, 1))
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)).numpy()
    OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(
        x, labels(16).numpy(), nb_epochs=1, batch_size=8, verbose=False
    )
    return classifier


def assert_all_forms_agree(classifier: OATClassifier) -> None:
    """Plain, folded and conditional network answer alike, also with one lam per sample."""
    model = classifier.model
    x = torch.rand(6, *classifier.input_shape)
    lam = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.25])
    alone = {value: model(x, value) for value in lam.unique().tolist()}
    for value, expected in alone.items():
        torch.testing.assert_close(model.pinned(value)(x), expected)
        torch.testing.assert_close(fold(model, value)(x), expected)
    mixed = torch.stack([alone[value][row] for row, value in enumerate(lam.tolist())])
    torch.testing.assert_close(model(x, lam), mixed)
    torch.testing.assert_close(torch.from_numpy(classifier.predict(x.numpy(), lam=lam.numpy())), mixed)


# --- What computes with the layers of the network that was converted


def with_closure(network: Plain) -> None:
    forward = network.forward
    network.forward = lambda x: forward(x)  # noqa: PLW0108 - a function, which a copy shares


def with_layer_in_lambda(network: Plain) -> None:
    network.stem = lambda x: network.conv1(x)  # noqa: PLW0108 - likewise
    network.features = lambda x: network.norm2(network.conv2(network.norm1(network.stem(x)).relu()))


def with_hook(network: Plain) -> None:
    network.norm1.register_forward_hook(lambda _, __, output: output + 0.1 * network.conv2(output))


def with_default_argument(network: Plain) -> None:
    def features(x: Tensor, layers: nn.Module = network) -> Tensor:
        return layers.norm2(layers.conv2(layers.norm1(layers.conv1(x))))

    network.features = features


def with_weight_in_closure(network: Plain) -> None:
    network.head.register_forward_hook(lambda _, inputs, __: F.linear(inputs[0], network.head.weight))


FOREIGN = {
    with_closure: ["conv1", "norm1", "conv2", "norm2", "head"],
    with_layer_in_lambda: ["conv1", "norm1", "conv2", "norm2"],
    with_hook: ["conv2"],
    with_default_argument: ["conv1", "norm1", "conv2", "norm2"],
    with_weight_in_closure: ["head"],
}


class Framed(nn.Module):
    """Takes a shape that conversion does not try."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, 0, :, :6, :6, 0])


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_a_network_that_would_compute_with_the_original_is_refused_by_path_also_where_conversion_knew_no_shape(change):
    network, nb_layers = Plain(), len(FOREIGN[change])
    change(network)
    with pytest.raises(UnsupportedModuleError, match=f"cannot convert {nb_layers} layer") as caught:
        to_conditional(network)
    assert all(f"{path} (" in str(caught.value) for path in FOREIGN[change])
    model = to_conditional(Framed(network))
    assert model.tried_shape is None
    with pytest.raises(UnsupportedModuleError, match=f"cannot convert {nb_layers} layer"):
        OATClassifier(model, nn.CrossEntropyLoss(), (1, 1, 6, 6, 1), 5, clip_values=(0, 1))


@pytest.mark.slow(seconds=1)
def test_the_original_is_not_kept_alive_by_its_conversion():
    network = Plain()
    model = to_conditional(network)
    assert model.strangers()["norm1.weight"] is network.norm1.weight
    del network
    gc.collect()
    assert not model.strangers()


# --- What leaves norms out, or asks for their type or weights


class Dispatching(Plain):
    def features(self, x: Tensor) -> Tensor:
        for part in (self.conv1, self.norm1, self.conv2, self.norm2):
            if isinstance(part, nn.Conv2d | nn.BatchNorm2d):
                x = part(x)
        return x


class ReadsWeight(Plain):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * self.norm1.weight.abs().mean()


class Functional(Plain):
    def features(self, x: Tensor) -> Tensor:
        norm = self.norm1
        return F.batch_norm(self.conv1(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Dispatching, r"norm1 \(BatchNorm2d\): the converted network does not call .* norm2 \(BatchNorm2d\)"),
        (ReadsWeight, "it fails, as it did not before conversion: .* no attribute 'weight'"),
        (Functional, "it fails, as it did not before conversion: .* no attribute 'running_mean'"),
    ],
)
def test_a_network_that_does_otherwise_once_converted_is_refused(kind, message):
    with pytest.raises(UnsupportedModuleError, match=message):
        to_conditional(kind())


class WithUnused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.BatchNorm2d(3)


class EvaluationOnly(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("targets are needed in training")
        return super().forward(x)


class Noisy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


@pytest.mark.parametrize("kind", [WithUnused, EvaluationOnly, Noisy])
def test_norms_that_are_not_called_what_fails_in_training_anyhow_and_random_answers_are_no_faults(kind):
    assert to_conditional(kind()).tried_shape is not None


def test_the_shape_that_the_caller_gives_must_fit():
    with pytest.raises(ValueError, match=r"input_shape must be the shape of one sample .* got \(3, 6, 6\)"):
        to_conditional(Plain(), input_shape=(3, 6, 6))


def test_a_trial_leaves_both_networks_and_the_generators_as_they_were():
    network = Plain()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    model = to_conditional(network)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(part.training for part in (*network.modules(), *model.modules()))
    assert all(parameter.grad is None for parameter in (*network.parameters(), *model.parameters()))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert int(model.network.norm1.clean.num_batches_tracked) == 0


# --- What a network keeps


class Keeping(Plain):
    def __init__(self, holder: object) -> None:
        super().__init__()
        self.holder = holder

    def features(self, x: Tensor) -> Tensor:
        first = self.norm1(self.conv1(x)).relu()
        second = self.norm2(self.conv2(first)).relu()
        if isinstance(self.holder, list):
            self.holder[:] = [first, (second,)]
        elif isinstance(self.holder, dict):
            self.holder.update(first=first, second=[second])
        else:
            self.holder.first, self.holder.both = first, {"second": second}
        return second


class Holder:
    """An object without methods."""


@pytest.mark.parametrize("make", [list, dict, Holder])
def test_a_network_that_keeps_activations_trains_and_its_plain_network_is_not_made_anew(make):
    classifier = trained_on(Keeping(make()))
    assert_all_forms_agree(classifier)
    pinned = classifier.model.pinned(0.5)
    network = pinned.network
    classifier.model.train()(images(4, torch.float32), 0.5)
    pinned(images(4, torch.float32))
    assert pinned.network is network


# --- What changes the batch axis


class Clip(Plain):
    """Takes ``[N, T, 1, 6, 6]``, averages over frames that lie side by side."""

    def forward(self, x: Tensor) -> Tensor:
        nb_samples, nb_frames = x.shape[:2]
        return super().forward(x.flatten(0, 1)).view(nb_samples, nb_frames, -1).mean(dim=1)


class InTurn(Plain):
    """The same with one frame of each sample after the other."""

    def forward(self, x: Tensor) -> Tensor:
        nb_samples, nb_frames = x.shape[:2]
        return super().forward(x.transpose(0, 1).flatten(0, 1)).view(nb_frames, nb_samples, -1).mean(dim=0)


class Siamese(Plain):
    def forward(self, x: Tensor) -> Tensor:
        first, second = super().forward(torch.cat([x, x.flip(3)])).chunk(2)
        return first - 0.5 * second


@pytest.mark.parametrize(
    ("kind", "shape"), [(Clip, (3, 1, 6, 6)), (InTurn, (3, 1, 6, 6)), (Siamese, (1, 6, 6))], ids=str
)
def test_a_network_that_makes_several_samples_of_each_gives_them_the_lam_of_it(kind, shape):
    assert_all_forms_agree(trained_on(kind(), shape))


class Sorting(Plain):
    """Brings samples in order before the second norm, and back after it."""

    def features(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        order = x.flatten(1).mean(dim=1).argsort()
        return self.norm2(self.conv2(x[order]))[order.argsort()]


class Rolling(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).roll(1, 0))).roll(-1, 0)


class Halving(Plain):
    """Leaves a part of the batch out before the second norm."""

    def features(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        return torch.cat([self.norm2(self.conv2(x[:1])), x[1:]])


@pytest.mark.parametrize("kind", [Sorting, Rolling, Halving])
def test_a_network_in_which_samples_change_places_is_refused_unless_the_norms_there_are_kept(kind):
    with pytest.raises(UnsupportedModuleError, match="samples are not answered by lams of their own"):
        to_conditional(kind())
    assert_all_forms_agree(trained_on(kind(), keep=["norm2"]))


@pytest.mark.parametrize("nb_tokens", [1, 2, 4])
def test_a_norm_over_tokens_before_samples_is_refused_with_the_way_out(nb_tokens):
    class TokensFirst(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).mean(dim=0)

    with pytest.raises(UnsupportedModuleError, match="batch_first=True"):
        to_conditional(TokensFirst(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), input_shape=(nb_tokens, 3))


class Ghost(nn.BatchNorm2d):
    """A norm over parts of the batch, in training."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__(nb_channels)
        self.parts = 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return torch.cat([super(Ghost, self).forward(part) for part in x.chunk(self.parts)])


class Chunking(Plain):
    def features(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().features(x)
        return torch.cat([super(Chunking, self).features(part) for part in x.chunk(2)])


def test_a_norm_over_parts_of_the_batch_is_refused():
    network = Plain()
    network.norm2 = Ghost(4)
    with pytest.raises(UnsupportedModuleError, match=r"norm2 \(Ghost\): it overrides forward"):
        to_conditional(network)
    with pytest.raises(
        UnsupportedModuleError, match=r"in training it fails, as it did not before .*: lam holds 2 values"
    ):
        to_conditional(Chunking())


def test_a_fault_that_shows_with_large_batches_alone_ends_the_first_step_and_changes_nothing():
    class Late(Plain):
        def features(self, x: Tensor) -> Tensor:
            parts = x.chunk(2) if self.training and len(x) > 4 else [x]
            return torch.cat([super(Late, self).features(part) for part in parts])

    torch.manual_seed(0)
    model = to_conditional(Late(), (0, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, y = images(8, torch.float32).numpy(), labels(8).numpy()
    with pytest.raises(RuntimeError, match="lam holds 8 values, one per sample, but a batch of 4 reached a layer"):
        OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(x, y, nb_epochs=1, batch_size=8, verbose=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- What holds a layer in other ways, and is right


class Partial(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.first = functools.partial(self.run, self.conv1, self.norm1)

    @staticmethod
    def run(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(layer(x)).relu_()

    def features(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.first(x)))


class Method(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.second = self.norm2.forward

    def features(self, x: Tensor) -> Tensor:
        return self.second(self.conv2(self.norm1(self.conv1(x))))


@pytest.mark.parametrize("kind", [Plain, Partial, WithUnused])
def test_what_a_copy_takes_along_converts(kind):
    assert_all_forms_agree(trained_on(kind()))


def test_a_network_that_keeps_the_method_of_a_norm_is_refused():
    with pytest.raises(UnsupportedModuleError, match="it fails, as it did not before conversion: 'DualBatchNorm'"):
        to_conditional(Method())


def test_a_trial_network_shares_its_weights_and_lies_as_networks_usually_do_also_where_weights_lie_both_ways():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 1, stride=2))
    usual = [weight.stride() for weight in network.parameters()]
    copied = sharing_copy(network.to(memory_format=torch.channels_last))
    assert [weight.stride() for weight in copied.parameters()] == usual
    for weight, original in zip(copied.parameters(), network.parameters(), strict=True):
        assert weight.data_ptr() == original.data_ptr()
