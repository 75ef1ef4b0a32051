"""What somebody hears who exports a network that follows training, and that plain networks go through every tracer."""

import io

import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from art_oat import fold, to_conditional
from art_oat.models import ConvNeXt, ResNet, SmallCNN, ViT, WideResNet
from tests.conftest import make_classifier
from tests.networks import images

X = images(4, torch.float32)
EXPORTERS = {
    "torch.export": lambda network: torch.export.export(network, (X,)),
    "torch.export, strict": lambda network: torch.export.export(network, (X,), strict=True),
    "ONNX": lambda network: torch.onnx.export(network, (X,), verbose=False),
    "ONNX by TorchScript": lambda network: torch.onnx.export(network, (X,), io.BytesIO(), dynamo=False),
    "torch.jit.trace": lambda network: torch.jit.trace(network, X),
    "torch.jit.script": torch.jit.script,
    "torch.fx": torch.fx.symbolic_trace,
}
FORMS = {
    "model": lambda classifier: classifier.model,
    "pinned network": lambda classifier: classifier.model.pinned(0.3),
    "live network": lambda classifier: classifier.model.live_network(),
    "view": lambda classifier: classifier.at(0.3).as_module(),
    "part of another network": lambda classifier: nn.Sequential(nn.Identity(), classifier.model.pinned(0.3)),
}
ADVICE = (
    r"Fold it first: fold\(model, lam=..., width=...\), or classifier.export\(path, lam=...\); with lam as an input"
)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_follows_training_says_in_a_line_what_to_export_instead_and_goes_on_as_before(form, exporter):
    classifier = make_classifier(preprocessing=(0.4, 0.2))
    network = FORMS[form](classifier).eval()
    expected = network(X)
    with pytest.raises(Exception, match=ADVICE) as refusal:
        EXPORTERS[exporter](network)
    if type(refusal.value) is RuntimeError:  # else torch says something around it
        assert len(str(refusal.value).splitlines()) == 1
    assert torch.equal(network(X), expected)
    torch.testing.assert_close(classifier.model.pinned(0.3)(X), fold(classifier.model, lam=0.3)(X))


NETWORKS = {
    "SmallCNN": lambda: SmallCNN(3, 10, (8, 16)),
    "ResNet": lambda: ResNet((1, 1), channels=8),
    "WideResNet": lambda: WideResNet(10, 1, dropout=0.3),
    "ConvNeXt": lambda: ConvNeXt((1, 1), (8, 16), drop_path=0.2, dropout=0.1),
    "ViT": lambda: ViT(32, 2, 1, drop_path=0.2, dropout=0.1),
    "ViT with a class token": lambda: ViT(32, 2, 1, pooling="token"),
}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("is_folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_ours_are_traced_scripted_exported_for_any_batch_and_quantized(name, is_folded):
    network = NETWORKS[name]().eval()
    network = fold(to_conditional(network, (0.0, 0.3, 1.0)), lam=0.3) if is_folded else network
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
        exported = torch.export.export(network, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        for form in (torch.fx.symbolic_trace(network), torch.jit.script(network), exported):
            torch.testing.assert_close(form(x), expected)
        assert isinstance(torch.fx.symbolic_trace(NETWORKS[name]().train()), nn.Module)
        prepared = prepare_fx(network, get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        for quantized in (quantize_dynamic(network, {nn.Linear}), convert_fx(prepared)):
            # steps of 1/127 of the largest weight and input, in a few layers one after the other
            assert float((quantized(x) - expected).abs().max()) < 0.2 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["ConvNeXt", "ViT"])
def test_a_traced_network_refuses_images_of_another_size_as_it_does_itself(name):
    network = NETWORKS[name]().eval()
    for form in (network, torch.fx.symbolic_trace(network)):
        with pytest.raises(ValueError, match="images must have"):
            form(torch.rand(2, 3, 3, 3))
