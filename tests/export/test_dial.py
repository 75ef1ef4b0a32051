"""The dial as one network: equal to the conditional one, in Python and exported."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from art_oat import OATClassifier, OATModel, fold, to_conditional
from art_oat.condition import Condition
from art_oat.export.dial import dial_network
from art_oat.layers import AffineLayer, ConvertedLayer, FiLM
from art_oat.models import ConvNeXt, SmallCNN, WideResNet
from art_oat.surgery import UnsupportedModuleError
from tests.compat.foreign import QUICK, Foreign, lived
from tests.compat.foreign_today import TODAY
from tests.edge_case_networks import Head
from tests.networks import LAMBDAS, NETWORKS, WIDTHS, Residual, Scores, images, shaken
from tests.pairs import parametrize_in_pairs

NB_LAMS = 50
DYNAMIC = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
EVERYWHERE = (0.0, 0.03, 0.1, 0.2, 0.27, 0.3, 0.8, 1.0)
"""On the slope, at trained lams, and between them."""


def lams_of(model: OATModel, nb_samples: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random lams up to the farthest, each trained one among them as far as there is room."""
    lams = model.farthest * torch.rand(nb_samples, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lams[: len(model.lambdas)] = torch.tensor(model.lambdas, dtype=torch.float64)[:nb_samples]
    return lams.to(dtype)


# --- In Python, in float64


@parametrize_in_pairs(make=NETWORKS, film=["linear", "two-layer", "published"], statistics=["dual", "shared", "single"])
def test_a_dial_gives_every_sample_the_scores_of_the_conditional_network_at_its_lam(make, film, statistics):
    model, x = shaken(make(), film=film, statistics=statistics), images()
    network = dial_network(model)
    assert not any(isinstance(part, ConvertedLayer) for part in network.modules())
    for lams in (torch.tensor(EVERYWHERE, dtype=torch.float64), lams_of(model)):
        torch.testing.assert_close(network(x, lams), model(x, lams))


@pytest.mark.parametrize("encoding", ["scalar", "dct", "random-orthogonal"])
@pytest.mark.parametrize("lambdas", [(0.0, 1.0), (0.1, 0.5), (0.2, 0.6, 1.0), (0.0, 0.5, 0.9)])
def test_a_dial_has_the_lams_that_were_trained_and_those_beyond(encoding, lambdas):
    model = shaken(Residual())
    own = to_conditional(Residual().double(), lambdas, encoding=encoding).eval()
    for mine, others in zip(own.parameters(), model.parameters(), strict=True):
        mine.data.copy_(torch.rand_like(mine) if mine.shape != others.shape else others)
    lams = torch.linspace(lambdas[0], own.farthest, 8, dtype=torch.float64)
    torch.testing.assert_close(dial_network(own)(images(), lams), own(images(), lams))


@pytest.mark.parametrize("film", ["linear", "published"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_dial_of_any_width_gives_the_scores_of_the_conditional_network(film, width):
    model, x = shaken(Residual(), widths=WIDTHS, film=film), images()
    lams = lams_of(model)
    torch.testing.assert_close(dial_network(model, width)(x, lams), model(x, lams, width))


def test_a_dial_at_lam_0_is_the_folded_network_of_the_clean_side_however_large_the_other_one_is():
    model, x = shaken(Residual()), images()
    for name, buffer in model.named_buffers():
        if name.endswith("adversarial.running_var"):
            buffer.fill_(1e-30)
    torch.testing.assert_close(dial_network(model)(x, torch.zeros(8)), fold(model, lam=0)(x), rtol=1e-12, atol=1e-12)


class FilmedConvolutions(nn.Module):
    """No norm, FiLM after a convolution and a linear layer; the first has a bias, the second has none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.linear(torch.relu(self.conv(x)).mean(dim=(2, 3)))))


@pytest.mark.parametrize("film", ["linear", "two-layer"])
def test_layers_with_film_but_without_a_norm_are_dialed(film):
    model, x = shaken(FilmedConvolutions(), film=film, film_on=["conv", "linear"]), images()
    lams = lams_of(model)
    torch.testing.assert_close(dial_network(model)(x, lams), model(x, lams))


class Clip(Head):
    """Takes ``[N, T, 1, 6, 6]``, averages over frames that lie side by side."""

    def forward(self, x: Tensor) -> Tensor:
        nb_samples, nb_frames = x.shape[:2]
        return super().forward(x.flatten(0, 1)).view(nb_samples, nb_frames, -1).mean(dim=1)


class InTurn(Head):
    """The same with one frame of each sample after the other."""

    def forward(self, x: Tensor) -> Tensor:
        nb_samples, nb_frames = x.shape[:2]
        return super().forward(x.transpose(0, 1).flatten(0, 1)).view(nb_frames, nb_samples, -1).mean(dim=0)


@pytest.mark.parametrize("make", [Clip, InTurn])
def test_a_network_that_makes_several_samples_of_each_gives_them_the_lam_of_it_exported_too(make):
    model, x = shaken(Head()), torch.rand(8, 3, 1, 6, 6, dtype=torch.float64)
    clips = to_conditional(make().double(), LAMBDAS, input_shape=(3, 1, 6, 6)).eval()
    clips.network.load_state_dict(model.network.state_dict())
    lams, network = lams_of(clips), dial_network(clips)
    torch.testing.assert_close(network(x, lams), clips(x, lams))
    program = torch.export.export(network, (x[:3], lams[:3]), dynamic_shapes=DYNAMIC).module()
    torch.testing.assert_close(program(x, lams), clips(x, lams))


def test_a_lam_outside_the_range_counts_as_the_nearest_end_of_it():
    model, x = shaken(Residual()), images(2)
    ends = torch.tensor([0.0, model.farthest], dtype=torch.float64)
    network = dial_network(model)
    assert torch.equal(network(x, torch.tensor([-0.5, 7.0])), network(x, ends))


def test_a_dial_is_of_its_own_keeps_what_is_tied_and_survives_copies_and_pickles():
    model, x = shaken(Residual()), images()
    lams, network = lams_of(model), dial_network(model)
    expected = model(x, lams)
    own, others = (
        {tensor.untyped_storage().data_ptr() for tensor in (*holder.parameters(), *holder.buffers())}
        for holder in (network, model)
    )
    assert not own & others
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0)
    for form in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(form(x, lams), expected)


def test_threads_that_share_a_dial_do_not_see_the_lams_of_each_other():
    model, x = shaken(Residual()), images()
    network = dial_network(model)
    rows = [torch.full((8,), lam, dtype=torch.float64) for lam in torch.linspace(0, 1, 16).tolist()]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda lams: network(x, lams), rows * 5))
    for lams, answer in zip(rows * 5, answers, strict=True):
        assert torch.equal(answer, network(x, lams))


# --- What is refused


class Bend(nn.Module):
    """A scale per channel, as a layer that somebody converts in a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, 1, 1)


class BentByLam(AffineLayer):
    """Multiplies by ``weight + lam ** 2``."""

    def __init__(self, layer: Bend) -> None:
        super().__init__()
        self.weight = layer.weight

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        scale = self.weight + condition.lam.unsqueeze(1).square()
        return scale, torch.zeros_like(scale)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError

    def fold(self, condition: Condition) -> nn.Module:
        raise AssertionError


class Odd(BentByLam):
    def pin(self) -> nn.Module:
        return nn.Identity()


def test_layers_that_no_table_can_hold_are_refused_all_by_name_and_told_what_to_do():
    model = shaken(Scores(nn.Linear(4, 5), bend=Bend(), odd=Bend()))
    model.network.bend, model.network.odd = BentByLam(model.network.bend), Odd(model.network.odd)
    with pytest.raises(UnsupportedModuleError, match=r"cannot dial 2 layer") as refusal:
        dial_network(model)
    assert "bend (BentByLam): it is not linear between trained lams." in str(refusal.value)
    assert "odd (Odd): what it is at one lam is not known to be a scale and a shift." in str(refusal.value)
    assert str(refusal.value).endswith("Ship single points: fold(model, lam=..., width=...).")


def test_a_width_that_was_not_trained_one_lam_alone_or_lams_for_other_samples_are_refused():
    model = shaken(Residual())
    with pytest.raises(ValueError, match="width must be one of"):
        dial_network(model, 0.3)
    with pytest.raises(ValueError, match=r"two trained lams, got \(0.5,\).*fold\(model\)"):
        dial_network(to_conditional(Residual(), (0.5,)))
    with pytest.raises(TypeError, match="model must be an OATModel"):
        dial_network(Residual())
    with pytest.raises(ValueError, match=r"one number per sample, \[8\], got \[4\]"):
        dial_network(model)(images(8), torch.zeros(4))


# --- Exported


def exported_by_onnx(network: nn.Module, x: Tensor, lams: Tensor):
    program, file = torch.onnx.export(network, (x[:3], lams[:3]), dynamic_shapes=DYNAMIC, verbose=False), io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    names = [given.name for given in session.get_inputs()]
    return lambda x, lams: session.run(None, dict(zip(names, (x.numpy(), lams.numpy()), strict=True)))[0]


def exported_by_torch(network: nn.Module, x: Tensor, lams: Tensor, **options: object):
    program = torch.export.export(network, (x[:3], lams[:3]), dynamic_shapes=DYNAMIC, **options).module()
    return lambda x, lams: program(x, lams).detach().numpy()


def assert_exports_answer_as_the_classifier_predicts(model: OATModel, shape: tuple[int, ...], rounding: float) -> None:
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), shape, model(torch.rand(2, *shape), 0.3).shape[1])
    x, lams = torch.rand(NB_LAMS, *shape), lams_of(model, NB_LAMS, torch.float32)
    lams[-10:] = torch.linspace(0, model.lambdas[1], 10)  # on the slope
    expected, network = classifier.predict(x.numpy(), lam=lams.numpy()), dial_network(model)
    for export in (exported_by_torch, exported_by_onnx):
        exported = export(network, x, lams)
        atol = rounding * np.abs(expected).max()
        np.testing.assert_allclose(exported(x, lams), expected, rtol=0, atol=atol)
        np.testing.assert_allclose(exported(x[:1], lams[:1]), expected[:1], rtol=0, atol=atol)


OURS = {
    "SmallCNN": lambda: SmallCNN(1, 5, (8, 12)),
    "WideResNet": lambda: WideResNet(10, 1, in_channels=1, nb_classes=5),
    "ConvNeXt": lambda: ConvNeXt((1, 1), (4, 6), in_channels=1, nb_classes=5),
}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("film", ["linear", "published"])
@pytest.mark.parametrize("name", OURS)
def test_the_exported_dial_of_a_network_of_ours_answers_as_the_classifier_predicts(name, film):
    model = shaken(OURS[name](), torch.float32, film=film)
    # float32 rounds by 6e-8, layer by layer; another runtime sums in another order
    assert_exports_answer_as_the_classifier_predicts(model, (1, 6, 6), rounding=1e-5)


FOREIGN = [
    next(it for it in (*QUICK, *TODAY) if it.name == name)
    for name in (
        "preresnet20_cifar10",
        "test_resnet",
        "vit_tiny, small",
        "ConvNeXt",
        "ResNet, basic",
        "resnet50_gn, narrow",
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: f"{foreign.source} {foreign.name}")
def test_the_exported_dial_of_a_network_of_others_answers_as_the_classifier_predicts(foreign: Foreign):
    network = foreign.build(torch.float32, torch.contiguous_format)
    model = to_conditional(lived(network, torch.rand(8, *foreign.input_shape)), LAMBDAS, **foreign.options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in model.modules():
            for parameter in part.parameters() if isinstance(part, FiLM) else ():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    for lam in model.lambdas:
        model.train()(torch.rand(8, *foreign.input_shape), lam)
    assert_exports_answer_as_the_classifier_predicts(model.eval(), foreign.input_shape, rounding=1e-4)


@pytest.mark.slow(seconds=1)
def test_a_dial_can_be_traced_on_one_sample_compiled_and_exported_strictly():
    model, x = shaken(Residual()), images()
    lams, network = lams_of(model), dial_network(model)
    strict = exported_by_torch(network, x, lams, strict=True)
    forms = (
        torch.jit.trace(network, (x[:1], lams[:1])),
        torch.compile(network, backend="eager", fullgraph=True),
        lambda *given: torch.from_numpy(strict(*given)),
    )
    for form in forms:
        torch.testing.assert_close(form(x, lams), model(x, lams))
