import copy
import itertools
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import PGD, OATClassifier, OATModel, to_conditional
from art_oat.attacks import bind
from art_oat.models import ResNet
from art_oat.surgery import to_published
from art_oat.training import Method
from art_oat.training.step import Step
from benchmarks import official, published
from tests.networks import Residual

LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


class StandIn(nn.Module):
    """Our network, called as the published ones are: with codes, and how many samples at the front have lam = 0."""

    def __init__(self, model: OATModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, code: Tensor, nb_clean: int) -> Tensor:
        table = self.model.encoding.table  # of orthonormal rows
        lam = torch.tensor(self.model.lambdas, dtype=x.dtype)[(code @ table.T).argmax(dim=1)]
        assert (lam == 0).tolist() == [row < nb_clean for row in range(len(x))]
        return self.model(x, lam)


class Norm(nn.Module):
    def __init__(self, nb_channels: int) -> None:
        super().__init__()
        self.BN_c, self.BN_a = nn.BatchNorm2d(nb_channels), nn.BatchNorm2d(nb_channels)

    def forward(self, x: Tensor, nb_clean: int) -> Tensor:
        sides = (self.BN_c, x[:nb_clean]), (self.BN_a, x[nb_clean:])
        return torch.cat([norm(part) for norm, part in sides if len(part)])


class Modulation(nn.Module):
    def __init__(self, nb_channels: int, code_dim: int) -> None:
        super().__init__()
        wide = 2 * nb_channels
        self.MLP = nn.Sequential(nn.Linear(code_dim, wide), nn.LeakyReLU(), nn.Linear(wide, wide))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = F.leaky_relu(self.MLP(code))[..., None, None].chunk(2, dim=1)
        return scale * x + shift


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, dropout: float, code_dim: int) -> None:
        super().__init__()
        self.bn1, self.film1 = Norm(before), Modulation(before, code_dim)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2, self.film2 = Norm(after), Modulation(after, code_dim)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor, code: Tensor, nb_clean: int) -> Tensor:
        start = torch.relu(self.film1(self.bn1(x, nb_clean), code))
        middle = torch.relu(self.film2(self.bn2(self.conv1(start), nb_clean), code))
        body = self.conv2(F.dropout(middle, self.dropout, self.training))
        return body + (x if self.convShortcut is None else self.convShortcut(start))


class WideResNetOAT(nn.Module):
    """A wide residual network of one block per stage, whose layers have the published names."""

    def __init__(self, num_classes, depth, widen_factor, dropRate, FiLM_in_channels, use2BN) -> None:  # noqa: N803
        super().__init__()
        assert depth == 10
        assert use2BN
        sizes = [16, *(widen_factor * 16 * 2**stage for stage in range(3))]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        for stage, stride in enumerate((1, 2, 2)):
            block = Block(sizes[stage], sizes[stage + 1], stride, dropRate, FiLM_in_channels)
            setattr(self, f"bundle{stage + 1}", nn.ModuleList([block]))
        self.bn1, self.fc = Norm(sizes[-1]), nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor, code: Tensor, nb_clean: int) -> Tensor:
        x = self.conv1(x)
        for (block,) in (self.bundle1, self.bundle2, self.bundle3):
            x = block(x, code, nb_clean)
        return self.fc(torch.relu(self.bn1(x, nb_clean)).mean(dim=(2, 3)))


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as the published code is; its network is the one above."""
    (tmp_path / "models" / "svhn").mkdir(parents=True)
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "FiLM.py").touch()
    source = "import models.FiLM\nfrom tests.benchmarks.test_official import WideResNetOAT\n"
    (tmp_path / "models" / "svhn" / "wide_resnet_OAT.py").write_text(source)
    return tmp_path


def trained_model(lam: float, momentum: float) -> OATModel:
    """A conditional network of two lams, 0 and another, in which every part has a value of its own."""
    model = to_conditional(Residual().double(), (0.0, lam))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = momentum
    return model


def published_step(model: OATModel, attack, generator: torch.Generator) -> published.PublishedStep:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    return published.PublishedStep(StandIn(model), model.lambdas, model.encoding.table, optimizer, attack, generator)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(9, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (9,), generator=generator)


def brighter(network, x, y, *, clip_values=None, generator=None):
    """An attack that does not look at the network."""
    return (x + 0.1).clamp(0, 1)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 32, 128])
def test_the_first_sixth_of_a_batch_rounded_up_gets_lam_zero_and_no_other_sample(batch_size):
    index = published.published_draw(LAMBDAS, batch_size, torch.Generator().manual_seed(0))
    nb_clean = math.ceil(batch_size / 6)
    assert (index == 0).tolist() == [True] * nb_clean + [False] * (batch_size - nb_clean)


def test_without_lam_zero_every_sample_is_drawn_from_the_whole_list():
    index = published.published_draw((0.3, 1.0), 200, torch.Generator().manual_seed(0))
    assert index.unique().tolist() == [0, 1]
    assert len(index) == 200


def test_lams_above_zero_are_drawn_independently_so_that_their_counts_are_binomial():
    # 25 of 30 samples, each 1.0 with probability 1/5: mean 5, variance 4; equal shares would have variance near 0
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([published.published_draw(LAMBDAS, 30, generator) for _ in range(2000)])
    counts = (draws == 5).sum(dim=1).double()
    assert counts.mean() == pytest.approx(5, abs=5 * math.sqrt(4 / 2000))
    assert counts.var() == pytest.approx(4, abs=5 * 4 * math.sqrt(2 / 2000))


@pytest.mark.parametrize("lam", [0.3, 1.0])
@pytest.mark.parametrize(
    ("attack", "momentum"),
    # PGD meets the statistics of this batch in one of the two steps only, so there they must not move
    [(brighter, 0.1), (PGD(0.1, nb_steps=3, has_random_start=False), 0.0)],
)
def test_a_published_step_is_one_of_ours_on_the_same_draws(lam, attack, momentum):
    x, y = batch()
    ours = trained_model(lam, momentum)
    theirs = copy.deepcopy(ours)
    optimizer = torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    classifier = OATClassifier(ours, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    Step(classifier, Method(), bind(attack, classifier), torch.Generator().manual_seed(5))(x, y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))  # ours shuffles first
    published_step(theirs, attack, torch.Generator())(x[order], y[order])
    torch.testing.assert_close(theirs.state_dict(), ours.state_dict())


def test_the_published_attack_sees_statistics_that_hold_the_clean_batch_and_a_network_in_evaluation():
    x, y = batch()
    model = trained_model(0.3, momentum=0.1)
    expected = copy.deepcopy(model).train()
    expected(x, torch.tensor([0.0] * 5 + [0.3] * 4, dtype=x.dtype))
    seen = []

    def spy(network, x, y, **options):
        assert not any(part.training for part in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        seen.append(model.network.norm.adversarial.running_mean.clone())
        return x

    published_step(model, spy, torch.Generator())(x, y)
    torch.testing.assert_close(seen, [expected.network.norm.adversarial.running_mean])
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_tensor_of_a_published_resnet_has_one_place_in_ours():
    norm = [f"{side}.{name}" for side in ("BN_c", "BN_a") for name in nn.BatchNorm2d(1).state_dict()]
    film = [f"MLP.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")]
    parts = {"conv": ["weight"], "bn": norm, "film": film}
    layers = [f"{kind}{number}" for kind, number in itertools.product(parts, (1, 2))]
    names = {"linear.weight", "linear.bias"}
    names |= {f"{kind}1.{part}" for kind in parts for part in parts[kind]}
    names |= {f"bundle{k}.0.{layer}.{part}" for k in (1, 2) for layer in layers for part in parts[layer[:-1]]}
    names |= {f"bundle2.0.{layer}_sc.{part}" for layer in ("conv", "bn") for part in parts[layer]}
    ours = to_published(ResNet((1, 1), channels=4)).network.state_dict()
    assert sorted(published.our_name(name, "resnet") for name in names) == sorted(ours)


@pytest.mark.parametrize("name", ["bundle1.0.conv1.weight", "bundle2.0.film1.MLP.0.weight", "bn1.BN_c.bias"])
def test_both_start_from_the_same_weights_and_the_check_of_it_sees_one_that_differs(name, checkout):
    built = official.contestants(checkout, official.Settings(), 0)
    official._check_start(built.published, built.ours[official.LAYOUT].model)
    with torch.no_grad():
        built.published.get_parameter(name).add_(0.01)
    with pytest.raises(RuntimeError, match="must give the same scores from the same weights"):
        official._check_start(built.published, built.ours[official.LAYOUT].model)


def test_the_imported_code_leaves_nothing_behind(checkout, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    own = ModuleType("models")
    monkeypatch.setitem(sys.modules, "models", own)
    path, files = list(sys.path), sorted(checkout.rglob("*"))
    assert published.published_class(checkout, "wrn").__name__ == "WideResNetOAT"
    assert {name for name in sys.modules if name.split(".")[0] == "models"} == {"models"}
    assert sys.modules["models"] is own
    assert sys.path == path
    assert sorted(checkout.rglob("*")) == files
    assert "torchvision" not in sys.modules


def test_a_loader_gives_the_same_batches_every_time_and_full_ones_only():
    settings = official.Settings(nb_train=40, batch_size=16)
    train, _ = official.images(settings)
    first, second = (list(official.batches(train, settings, 3)) for _ in range(2))
    assert [len(y) for _, y in first] == [16, 16]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("fault", ["missing", "empty", "without the class"])
def test_a_folder_without_the_published_code_is_refused_with_what_to_do(fault, checkout):
    folder = checkout / "nowhere" if fault == "missing" else checkout
    if fault == "empty":
        (checkout / "models" / "svhn" / "wide_resnet_OAT.py").unlink()
    if fault == "without the class":
        (checkout / "models" / "svhn" / "wide_resnet_OAT.py").write_text("")
    with pytest.raises(ValueError, match="--official") as refusal:
        official.main(["--official", str(folder)])
    message = str(refusal.value)
    assert f"must name a checkout of the published OAT code, got {str(folder)!r}" in message
    assert "VITA-Group/Once-for-All-Adversarial-Training" in message


def test_differences_are_those_of_the_means_and_times_are_relative_to_the_published_step():
    found = {official.THEIRS: np.ones((2, 4, 6)), official.OURS: np.ones((2, 4, 6))}
    found[official.OURS][1, :, :3] = 0  # no image stands an attack at half of the lams
    *_, mean = official.rows(found, {official.THEIRS: 2.0, official.OURS: 1.0})
    assert (mean["network"], mean["lam"]) == (official.OURS, "mean")
    assert (float(mean["clean minus published"]), float(mean["robust minus published"])) == (0, -0.5)
    assert mean["robust 95% interval"] == "-0.5000 to -0.5000"  # every image differs alike
    assert float(mean["ratio to published"]) == 0.5


@pytest.mark.slow
def test_a_smoke_run_reports_every_network_at_every_lam(checkout, capsys):
    official.main(["--official", str(checkout), "--smoke"])
    lines = capsys.readouterr().out.splitlines()
    for name in (official.THEIRS, official.LAYOUT, official.OURS):
        lams = [line.strip().removeprefix(name).split()[0] for line in lines if line.strip().startswith(f"{name}  ")]
        assert lams == [*map(str, LAMBDAS), "mean"]
