import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from art_oat import PGD, OperatingPoint, RandomCropFlip, fold, load_model, parameter_groups
from art_oat.data import Dataset, Split
from art_oat.experiment.recipe import Recipe, architecture, train, trainer_for
from art_oat.models import ResNet, SmallCNN, WideResNet
from art_oat.training import Method

RECIPE = Recipe(network="small-4-8", nb_epochs=2, eps=0.2, attack="pgd-1", lambdas=(0.0, 1.0), nb_train=200)


@pytest.mark.parametrize(
    ("name", "kind", "nb_parameters"),
    [
        ("small-4", SmallCNN, 4 * 9 * 3 + 2 * 4 + 4 * 7 + 7),
        ("resnet18", ResNet, None),
        ("wrn-10-1", WideResNet, None),
    ],
)
def test_a_short_name_means_a_network_for_the_images_at_hand(name, kind, nb_parameters):
    network = architecture(name, in_channels=3, nb_classes=7).build()
    assert isinstance(network, kind)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    if nb_parameters:
        assert sum(parameter.numel() for parameter in network.parameters()) == nb_parameters


def test_every_fault_of_a_recipe_is_named():
    faults = r"attack must be.*network must be.*schedule must be.*lambdas must hold.*widths must hold.*heads must be"
    with pytest.raises(ValueError, match=faults):
        Recipe(attack="fgsm", network="vgg", schedule="up", lambdas=(2.0,), widths=(0.5,), heads="two")
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4"):
        Recipe(network="wrn-11-1")


def test_the_same_recipe_gives_the_same_weights():
    recipe = dataclasses.replace(RECIPE, augmentation="crop", ema=0.9)
    first, again = (train(recipe, recipe.dataset(), verbose=False).model.state_dict() for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_the_folder_gets_the_weights_that_are_returned(tmp_path):
    for keeps_best in (True, False):
        folder = tmp_path / str(keeps_best)
        trained = train(RECIPE, RECIPE.dataset(), folder=folder, keeps_best=keeps_best, verbose=False).model
        torch.testing.assert_close(load_model(folder).state_dict(), trained.state_dict(), rtol=0, atol=0)
        assert len((folder / "training.csv").read_text().splitlines()) == 1 + RECIPE.nb_epochs


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_without_film_one_lam_trains_the_plain_network(lam):
    recipe = dataclasses.replace(RECIPE, lambdas=(lam,), film=None)
    data = recipe.dataset()
    x, y = (torch.from_numpy(part) for part in data.train)
    trainer = trainer_for(recipe, data)
    trainer.method = dataclasses.replace(trainer.method, attack=PGD(0.2, nb_steps=1, has_random_start=False))
    network = fold(trainer.get_classifier().model, lam)
    trainer.fit(*data.train, batch_size=len(x), nb_epochs=3, verbose=False)
    groups = parameter_groups(network, recipe.weight_decay)
    optimizer = torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True)
    for _ in range(3):
        x_adv = trainer.method.attack(network.eval(), x, y, clip_values=(0, 1))
        network.train()
        loss = (1 - lam) * cross_entropy(network(x), y)
        loss = loss + lam * cross_entropy(network(x_adv), y) if lam else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = fold(trainer.get_classifier().model, lam)
    torch.testing.assert_close(trained.state_dict(), network.state_dict(), rtol=1e-4, atol=1e-4)  # float32, shuffled


@pytest.fixture
def plain():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return architecture(RECIPE.network, in_channels=1, nb_classes=10).build()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_training_starts_from_the_answers_of_pretrained_weights(tmp_path, plain, name, lam):
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(plain.state_dict(), path)
    data = RECIPE.dataset()
    model = trainer_for(dataclasses.replace(RECIPE, pretrained=str(path)), data).get_classifier().model.eval()
    x = torch.from_numpy(data.test.x[:8])
    torch.testing.assert_close(model(x, lam), plain.eval()(x))


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path, plain):
    data = RECIPE.dataset()
    with pytest.raises(FileNotFoundError, match="pretrained must name a file with weights"):
        trainer_for(dataclasses.replace(RECIPE, pretrained=str(tmp_path / "none.pt")), data)
    torch.save(plain.state_dict(), tmp_path / "weights.pt")
    other = dataclasses.replace(RECIPE, network="small-4", pretrained=str(tmp_path / "weights.pt"))
    with pytest.raises(ValueError, match="pretrained must hold weights of a SmallCNN"):
        trainer_for(other, data)
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="pretrained must hold weights"):
        trainer_for(dataclasses.replace(RECIPE, pretrained=str(tmp_path / "weights.pt")), data)


def test_what_is_exempt_does_not_decay():
    weights = {}
    for exempt in ((), ("norm",)):
        recipe = dataclasses.replace(RECIPE, exempt=exempt, weight_decay=3.0, learning_rate=0.01)
        network = train(recipe, recipe.dataset(), keeps_best=False, verbose=False).model.network
        weights[exempt] = network.features[1].clean.weight.norm().item()
    assert weights[()] < 0.9 * weights[("norm",)]


def test_networks_that_a_function_builds_are_kept_too(tmp_path):
    recipe = dataclasses.replace(RECIPE, network="resnet18", nb_epochs=1, nb_train=20)
    data = recipe.dataset()
    tiny = Split(data.validation.x[:4], data.validation.y[:4])
    train(recipe, data._replace(validation=tiny), folder=tmp_path, verbose=False)
    assert isinstance(load_model(tmp_path).network, ResNet)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1},
        {"weight_decay": -1},
        {"ema": 2},
        {"weight_of_one": 0},
        {"batch_size": 0},
        {"label_smoothing": 1.0},
        {"augmentation": "mixup"},
        {"exempt": ("weight",)},
        {"seed": -1},
        {"nb_train": 0},
        {"width_sampling": "some"},
        {"distills": "yes"},
        {"widths": 0.5},
        {"widths": (1.0, 1.0)},
        {"distills": True, "width_sampling": "random"},
        {"precision": "fp8"},
        {"channels_last": 1},
    ],
)
def test_a_number_that_no_training_could_use_is_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Recipe(**options)


@pytest.mark.parametrize("name", ["width_sampling", "distills"])
def test_a_recipe_trains_widths_as_the_trainer_does_unasked(name):
    assert getattr(Recipe(), name) == getattr(Method(), name)


def test_a_recipe_says_how_widths_are_made_and_trained():
    recipe = dataclasses.replace(RECIPE, widths=(0.5, 1.0), width_sampling="sandwich", distills=True)
    trainer = trainer_for(recipe, recipe.dataset())
    assert (trainer.method.width_sampling, trainer.method.distills) == ("sandwich", True)
    assert list(trainer.get_classifier().model.conversion["input_shape"]) == [1, 8, 8]


def test_a_recipe_says_what_a_training_computes_in_and_how_it_lies_in_memory():
    recipe = dataclasses.replace(RECIPE, precision="bf16", channels_last=True)
    trainer = trainer_for(recipe, recipe.dataset())
    assert trainer.method.precision == "bf16"
    weight = trainer.get_classifier().model.network.features[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_weights_trained_with_channels_last_are_kept_and_are_the_same_to_rounding(tmp_path):
    recipe = dataclasses.replace(RECIPE, attack="pgd-1", lambdas=(0.0,), augmentation="crop")  # no sign of a gradient
    states = []
    for channels_last in (False, True):
        chosen = dataclasses.replace(recipe, channels_last=channels_last)
        train(chosen, chosen.dataset(), folder=tmp_path / str(channels_last), keeps_best=False, verbose=False)
        states.append(load_model(tmp_path / str(channels_last)).state_dict())
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-5)  # float32, summed in another order


def test_every_width_of_a_recipe_is_trained_and_kept(tmp_path):
    recipe = dataclasses.replace(RECIPE, widths=(0.5, 1.0), heads="per-width", width_sampling="all")
    trained = train(recipe, recipe.dataset(), folder=tmp_path, verbose=False).model
    kept = load_model(tmp_path)
    x = torch.rand(3, 1, 8, 8)
    for width, nb_channels in ((0.5, 4), (1.0, 8)):
        point = OperatingPoint(0.0, width)
        network = fold(kept, point)
        assert network.head.in_features == nb_channels
        assert network.features[1].running_mean.abs().min() > 0  # it starts at 0
        torch.testing.assert_close(kept.pinned(point)(x), trained.pinned(point)(x), rtol=0, atol=0)
    heads = [fold(kept, OperatingPoint(0.0, width)).head.bias for width in (0.5, 1.0)]
    assert not torch.equal(*heads)


@pytest.mark.parametrize(
    ("data", "augmentation", "expected"),
    [
        ("cifar10", "auto", RandomCropFlip(4, has_flip=True)),
        ("mnist", "auto", RandomCropFlip(4, has_flip=False)),
        ("digits", "auto", None),
        ("digits", "crop-flip", RandomCropFlip(4, has_flip=True)),
        ("cifar10", "none", None),
    ],
)
def test_augmentation_suits_the_data(data, augmentation, expected):
    images = np.zeros((1, 3, 32, 32), dtype=np.float32)
    split = Split(images, np.zeros(1, dtype=np.int64))
    assert Recipe(data=data, augmentation=augmentation).augment(Dataset(split, split, split)) == expected


@pytest.mark.parametrize("attack_precision", [None, "float32", "bf16"])
def test_a_recipe_says_what_the_attack_computes_in(attack_precision):
    recipe = dataclasses.replace(RECIPE, attack_precision=attack_precision)
    trainer = trainer_for(recipe, recipe.dataset())
    assert (trainer.method.precision, trainer.method.attack_precision) == ("float32", attack_precision)


def test_a_recipe_names_the_faults_of_both_precisions():
    with pytest.raises(ValueError, match=r"precision must be one of .*'fp8'.*attack_precision must be one of .*'fp4'"):
        Recipe(precision="fp8", attack_precision="fp4")


def test_a_radius_in_another_unit_is_refused_unless_it_is_meant():
    with pytest.raises(ValueError, match=r"eps must be below 0.5 \(Linf\).*write 8 / 255"):
        Recipe(eps=8)
    with pytest.raises(ValueError, match="allow_large_eps must be True or False, got 1"):
        Recipe(allow_large_eps=1)
    recipe = dataclasses.replace(RECIPE, eps=8.0, allow_large_eps=True)
    assert trainer_for(recipe, recipe.dataset()).method.attack.eps == 8
    recipe = dataclasses.replace(RECIPE, eps=8.0, norm="L2")  # how large an image is, only the data say
    with pytest.raises(ValueError, match=r"eps must be below 4 \(L2\)"):
        trainer_for(recipe, recipe.dataset())
