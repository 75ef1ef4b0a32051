"""What is given by mistake is refused in one line that says what to give instead."""

import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from art_oat import PGD, OATClassifier, OATTrainer, evaluate, fold, load_model, save_model, to_conditional
from art_oat.surgery import UnsupportedModuleError
from art_oat.training import recalibrate
from art_oat.transfer import find_head
from tests.networks import Residual, images, labels, sequential


def assert_one_line(caught: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(caught.value)


def distributed(network: nn.Module) -> nn.Module:
    wrapped = object.__new__(DistributedDataParallel)  # without a process group
    nn.Module.__init__(wrapped)
    wrapped.module = network
    return wrapped


def scripted(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        return torch.jit.script(sequential())


def traced(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(sequential().eval(), images(2, torch.float32))


WRAPPED = {
    nn.DataParallel: r"its \.module",
    distributed: r"its \.module",
    AveragedModel: r"its \.module",
    torch.compile: r"its \._orig_mod",
    scripted: "before it is scripted or traced",
    traced: "before it is scripted or traced",
}


@pytest.mark.parametrize("wrap", WRAPPED, ids=lambda wrap: wrap.__name__)
def test_a_wrapped_network_is_not_converted(wrap):
    with pytest.raises(
        TypeError, match=f"network must be an eager torch.nn.Module, got .*: give .*{WRAPPED[wrap]}"
    ) as it:
        to_conditional(wrap(Residual()))
    assert_one_line(it)
    with pytest.raises(TypeError, match=f"got a .* at part: give .*{WRAPPED[wrap]}"):
        to_conditional(nn.ModuleDict({"part": wrap(Residual())}))


def test_an_exported_network_is_not_converted():
    exported = torch.export.export(sequential().eval(), (images(2, torch.float32),))
    with pytest.raises(TypeError, match="got ExportedProgram: give the network that was exported"):
        to_conditional(exported)
    with pytest.raises(UnsupportedModuleError, match="holds no norm to convert"):
        to_conditional(exported.module())


TAKES_MODELS = {
    "OATClassifier": lambda model: OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5),
    "fold": fold,
    "recalibrate": lambda model: recalibrate(model, [images()]),
    "save_model": lambda model: save_model(model, Path("nowhere")),
}


@pytest.mark.parametrize("take", TAKES_MODELS)
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, distributed, AveragedModel, torch.compile], ids=lambda it: it.__name__
)
def test_a_wrapped_model_is_refused_wherever_a_model_is_taken(take, wrap):
    with pytest.raises(TypeError, match=f"model must be an OATModel, got .*: give .*{WRAPPED[wrap]}") as caught:
        TAKES_MODELS[take](wrap(to_conditional(Residual())))
    assert_one_line(caught)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("take", ["fold", "save_model"])
def test_a_classifier_in_place_of_its_model_is_refused(take, classifier):
    with pytest.raises(TypeError, match=r"got OATClassifier: a classifier's is classifier\.model"):
        TAKES_MODELS[take](classifier)


@pytest.mark.parametrize("take", TAKES_MODELS)
def test_a_plain_network_in_place_of_a_model_is_refused(take):
    with pytest.raises(TypeError, match=r"got Residual: convert it: to_conditional\(network\)"):
        TAKES_MODELS[take](Residual())


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, torch.compile], ids=lambda it: it.__name__)
def test_wrapped_things_are_refused_by_what_takes_other_things(wrap):
    wrapped = wrap(to_conditional(Residual()))
    with pytest.raises(TypeError, match="classifier must be an OATClassifier, got"):
        OATTrainer(wrapped)
    with pytest.raises(TypeError, match="classifier must be a PyTorchClassifier, got"):
        evaluate(wrapped, images().numpy(), labels().numpy(), eps=0.1, lam=1.0)
    with pytest.raises(TypeError, match=f"give .*{WRAPPED[wrap]}"):
        find_head(wrap(Residual()))


class Holding(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.inner = sequential()
        self.inner.held = held

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def opened() -> object:
    return Path(__file__).open(encoding="utf-8")


def generated() -> object:
    return (it for it in ())


@pytest.mark.parametrize("make", [threading.Lock, opened, generated], ids=["lock", "file", "generator"])
def test_what_cannot_be_copied_is_named_by_path(make):
    with pytest.raises(TypeError, match=r"inner\.held \(.*\) cannot: .*\. Keep it outside of the network") as caught:
        to_conditional(Holding(make()))
    assert_one_line(caught)


def test_pruned_and_lazy_norms_are_refused_with_the_way_round():
    network = sequential()
    path = next(path for path, part in network.named_modules() if isinstance(part, nn.BatchNorm2d))
    prune.l1_unstructured(network.get_submodule(path), "weight", 0.5)
    with pytest.raises(
        UnsupportedModuleError, match=rf"{path} \(RenamedNorm\): .*torch\.nn\.utils\.prune\.remove does"
    ):
        to_conditional(network)
    prune.remove(network.get_submodule(path), "weight")
    to_conditional(network)
    with pytest.raises(
        UnsupportedModuleError, match=r"1 \(LazyBatchNorm2d\): .*run one batch through the network first"
    ):
        to_conditional(nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()))


def trainable(optimizer: torch.optim.Optimizer, model: nn.Module) -> OATClassifier:
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def test_an_optimizer_that_needs_a_closure_is_refused():
    model = to_conditional(Residual())
    classifier = trainable(torch.optim.LBFGS(model.parameters()), model)
    with pytest.raises(TypeError, match="must take a step without a closure, which LBFGS does not: use SGD or AdamW"):
        OATTrainer(classifier, attack=PGD(0.1))


def test_a_scheduler_of_another_optimizer_is_refused():
    model = to_conditional(Residual())
    classifier = trainable(torch.optim.SGD(model.parameters(), 0.1), model)
    other = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), 0.1), 1)
    with pytest.raises(ValueError, match="scheduler must be made for the classifier's own optimizer"):
        OATTrainer(classifier, attack=PGD(0.1)).fit(images().numpy(), labels().numpy(), scheduler=other, verbose=False)
    own = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1)
    x, y = images(8, torch.float32).numpy(), labels().numpy()
    OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(x, y, nb_epochs=1, scheduler=own, verbose=False)


def test_what_no_model_can_be_loaded_from_or_into_is_refused(tmp_path):
    save_model(to_conditional(Residual()), tmp_path)
    for network, message in ((nn.DataParallel(Residual()), r"give what it holds, its \.module"), ("resnet", "got str")):
        with pytest.raises(TypeError, match=message):
            load_model(tmp_path, network)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="its SHA-256 is another") as caught:
        load_model(tmp_path, Residual())
    assert_one_line(caught)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json must hold JSON, but cannot be read"):
        load_model(tmp_path, Residual())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"folder must hold what save_model wrote, but config\.json and model"):
        load_model(tmp_path)
