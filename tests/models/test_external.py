import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from art_oat import fold, load_model, save_model, to_conditional
from art_oat.model_io import Architecture
from art_oat.models import ImageTask, Logits, external, network_named
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.networks import SmallCNN

DIGITS = {"in_channels": 1, "nb_classes": 10, "image_size": (8, 8)}


def tiny(in_chans: int = 3, num_classes: int = 7) -> nn.Module:
    return SmallCNN(in_chans, num_classes, [4])


def unresponsive() -> nn.Module:
    return SmallCNN(1, 3, [4])


def graded(in_channels: int, nb_classes: int) -> nn.Module:
    """Reads numbers off a tensor, as many a network does for its stochastic depth: not possible on device meta."""
    return SmallCNN(in_channels, nb_classes, [int(channels) for channels in torch.linspace(2, 4, 2)])


def needy(depth, num_classes):
    raise AssertionError


def faulty(num_classes):
    raise LookupError("no weights\nfound")


def number() -> int:
    return 3


class Answering(nn.Module):
    def __init__(self, kind, nb_classes=10):
        super().__init__()
        self.kind, self.body = kind, SmallCNN(1, nb_classes, [4])

    def forward(self, x):
        return self.kind(logits=self.body(x))


def wordy(nb_classes: int = 10) -> nn.Module:
    return Answering(SimpleNamespace, nb_classes)


@pytest.fixture
def timm():
    before = set(sys.modules)
    with torchvision_importable():
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] == "timm" and name not in before]:
            del sys.modules[name]


def test_a_factory_is_told_what_it_takes_of_channels_classes_and_size():
    network = network_named(f"{__name__}:tiny", **DIGITS)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_class_of_a_network_that_reads_tensors_is_known_and_nothing_is_drawn_for_it():
    before = torch.get_rng_state()
    assert Architecture("network_named", {"name": f"{__name__}:graded", **DIGITS}).kind() == "SmallCNN"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_of_timm_fits_the_images(timm):
    network = network_named("timm:vit_tiny_patch16_224", in_channels=1, nb_classes=5, image_size=(32, 32))
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert network.training


def test_a_network_of_torchvision_fits_the_classes(timm):
    assert network_named("torchvision:squeezenet1_1", nb_classes=5, image_size=(64, 64)).num_classes == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            f"{__name__}:missing",
            "must name something to call, got .* has no such function",
        ),
        (f"{__name__}:needy", "needy' must be made without further arguments, but: .*'depth'"),
        (f"{__name__}:faulty", "faulty' must be made without further arguments, but: .*no weights found"),
        ("builtins:dict", "must be made without further arguments, but: no signature"),
        (f"{__name__}:number", "must return a torch.nn.Module, got int"),
        (f"{__name__}:unresponsive", r"must give 10 scores for an image, got \[2, 3\] for two"),
        (f"{__name__}:wordy", "got SimpleNamespace for two.*Logits takes the scores"),
        (f"{__name__}:tiney", "no such function or class.*Did you mean tiny"),
        (
            "no_such_package.networks:make",
            "needs no_such_package.networks, which cannot be imported: No module named .*pip install no_such_package",
        ),
        ("resnet", "network must be one of .*Did you mean resnet"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as refusal:
        network_named(name, **DIGITS)
    assert "\n" not in str(refusal.value)


def test_a_factory_that_its_module_makes_when_asked_is_found(monkeypatch):
    module = ModuleType("lazy")
    module.__getattr__ = {"make": lambda nb_classes: SmallCNN(1, nb_classes, [4])}.__getitem__
    monkeypatch.setitem(sys.modules, "lazy", module)
    assert isinstance(network_named("lazy:make", **DIGITS), SmallCNN)


def test_a_package_that_does_not_load_is_named_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"network 'timm:resnet18' needs timm, which cannot be imported: .*timm"):
        network_named("timm:resnet18", **DIGITS)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            RuntimeError("operator torchvision::nms does not exist"),
            "must be built for the torch that is here",
        ),
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), "pip install torchvision"),
    ],
)
def test_it_is_said_what_to_do_about_a_torchvision_that_does_not_load(monkeypatch, error, advice):
    def fail(_):
        raise error

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ValueError, match=rf"'torchvision:resnet18' needs .* cannot be imported: {error}\. .*{advice}"):
        external._torchvision(ImageTask(), "resnet18")


def test_names_that_a_package_does_not_have_are_refused_with_those_near(monkeypatch):
    stub = ModuleType("timm")
    stub.is_model, stub.list_models = (lambda _: False), (lambda: ["convnext_atto", "convnext_femto"])
    monkeypatch.setitem(sys.modules, "timm", stub)
    with pytest.raises(ValueError, match=r"got 'convnext_ato'\. Did you mean convnext_atto or convnext_femto"):
        network_named("timm:convnext_ato", **DIGITS)


def test_images_that_a_network_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"must take images \[2, 8, 8\], but: "):
        network_named(f"{__name__}:unresponsive", in_channels=2, nb_classes=3, image_size=(8, 8))


@pytest.mark.parametrize("kind", [SimpleNamespace, dict])
def test_scores_are_taken_out_of_an_answer_and_the_network_is_conditional_and_folds(kind):
    network = Logits(Answering(kind)).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(x), network.network.body(x))
    model = to_conditional(network, (0, 1), input_shape=(1, 8, 8)).eval()
    torch.testing.assert_close(fold(model, 1.0)(x), network(x))
    assert {name.partition(".")[0] for name in network.state_dict()} == {"network"}


TRANSFORMERS = {
    "ViT": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "DeiT": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_network_of_transformers_is_conditional_and_its_folded_weights_load_into_its_own_class(family):
    with torchvision_importable():
        library = importlib.import_module("transformers")
        sizes = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 5}
        configuration = getattr(library, f"{family}Config")(**sizes, **TRANSFORMERS[family])
        make = getattr(library, f"{family}ForImageClassification")
        original, fresh = make(configuration).eval(), make(configuration).eval()
    x = torch.rand(3, 1, 8, 8)
    model = to_conditional(Logits(original), (0, 1), input_shape=(1, 8, 8)).eval()
    torch.testing.assert_close(model(x, 1.0), original(x).logits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folded = fold(model, 1.0)
    fresh.load_state_dict(folded.network.state_dict())
    torch.testing.assert_close(fresh(x).logits, model(x, 1.0), rtol=1e-4, atol=1e-5)


class Keyed(nn.Module):
    def forward(self, input_ids=None, pixel_values=None):
        return {"logits": pixel_values.sum(dim=(2, 3))}


def test_images_go_to_the_argument_for_pixels_wherever_it_stands():
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Logits(Keyed())(x), x.sum(dim=(2, 3)))


def test_an_answer_without_scores_is_refused():
    with pytest.raises(TypeError, match="something that has logits, got Tensor"):
        Logits(nn.Identity())(torch.zeros(1, 1))


def test_code_that_a_file_names_runs_only_where_the_caller_trusts_it(tmp_path, monkeypatch):
    module = ModuleType("bystander")
    module.make = lambda nb_classes: SmallCNN(1, nb_classes, [4])
    monkeypatch.setitem(sys.modules, "bystander", module)
    arguments = {"name": "bystander:make", **DIGITS, "image_size": [8, 8]}
    model = to_conditional(network_named(**arguments), (0, 1), input_shape=(1, 8, 8)).eval()
    save_model(model, tmp_path, Architecture("network_named", arguments))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(load_model(tmp_path, trusts_network=True)(x, 1.0), model(x, 1.0))
    torch.testing.assert_close(load_model(tmp_path, module.make(10))(x, 1.0), model(x, 1.0))
    calls = []
    module.make = calls.append
    with pytest.raises(ValueError, match="its network is bystander:make, and loading it would run that code"):
        load_model(tmp_path)
    assert not calls
