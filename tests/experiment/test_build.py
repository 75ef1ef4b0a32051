from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from art_oat import PGD, OperatingPoint, fold, load_model, parameter_groups
from art_oat.data import Split
from art_oat.experiment.build import train, trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.models import ResNet
from art_oat.training import Method

METHOD = Method(attack="pgd-1", eps=0.2)
RECIPE = Recipe(data="digits", network="small-4-8", nb_epochs=2, lambdas=(0.0, 1.0), nb_train=200, method=METHOD)


def test_the_same_recipe_gives_the_same_weights():
    recipe = RECIPE.changed(augmentation="crop", ema=0.9)
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
    attack = PGD(0.2, nb_steps=1, has_random_start=False)
    recipe = RECIPE.changed(lambdas=(lam,), film=None)
    data = recipe.dataset()
    x, y = (torch.from_numpy(part) for part in data.train)
    trainer = trainer_for(recipe, data)
    trainer.method = replace(trainer.method, attack=attack)
    network = fold(trainer.get_classifier().model, lam)
    trainer.fit(*data.train, batch_size=len(x), nb_epochs=3, verbose=False)
    optimizer = torch.optim.SGD(parameter_groups(network, 5e-4), 0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        x_adv = attack(network.eval(), x, y, clip_values=(0, 1))
        network.train()
        terms = [(1 - lam, x), (lam, x_adv)]  # what has no weight moves no running statistics either
        loss = sum(weight * cross_entropy(network(inputs), y) for weight, inputs in terms if weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = fold(trainer.get_classifier().model, lam)
    torch.testing.assert_close(trained.state_dict(), network.state_dict(), rtol=1e-4, atol=1e-4)  # float32, shuffled


@pytest.fixture
def plain():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return RECIPE.architecture(RECIPE.dataset()).build()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_training_starts_from_the_answers_of_pretrained_weights(tmp_path, plain, name, lam):
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(plain.state_dict(), path)
    data = RECIPE.dataset()
    model = trainer_for(RECIPE.changed(pretrained=str(path)), data).get_classifier().model.eval()
    x = torch.from_numpy(data.test.x[:8])
    torch.testing.assert_close(model(x, lam), plain.eval()(x))


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path, plain):
    data, path = RECIPE.dataset(), tmp_path / "weights.pt"
    recipe = RECIPE.changed(pretrained=str(path))
    with pytest.raises(FileNotFoundError, match="pretrained must name a file with weights"):
        trainer_for(recipe, data)
    torch.save(plain.state_dict(), path)
    with pytest.raises(ValueError, match="pretrained must hold weights of a SmallCNN") as caught:
        trainer_for(recipe.changed(network="small-4"), data)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="pretrained must hold weights"):
        trainer_for(recipe, data)


def test_what_is_exempt_does_not_decay():
    weights = {}
    for exempt in ((), ("norm",)):
        recipe = RECIPE.changed(exempt=exempt, weight_decay=3.0, learning_rate=0.01)
        network = train(recipe, recipe.dataset(), keeps_best=False, verbose=False).model.network
        weights[exempt] = network.features[1].clean.weight.norm().item()
    assert weights[()] < 0.9 * weights[("norm",)]


@pytest.mark.slow(seconds=1)
def test_networks_that_a_function_builds_are_kept_too(tmp_path):
    recipe = RECIPE.changed(network="resnet18", nb_epochs=1, nb_train=20)
    data = recipe.dataset()
    tiny = Split(data.validation.x[:4], data.validation.y[:4])
    train(recipe, data._replace(validation=tiny), folder=tmp_path, verbose=False)
    assert isinstance(load_model(tmp_path).network, ResNet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": -1}, "weight_decay"),
        ({"exempt": ("weight",)}, "exempt"),
        ({"heads": "two", "widths": (0.5, 1.0)}, "heads must be one of"),
        ({"film": "none"}, "film must be one of"),
        ({"eps": 8.0}, r"eps must be below 0.5 \(Linf\).*write 8 / 255"),
        ({"eps": 8.0, "norm": "L2"}, r"eps must be below 4 \(L2\)"),
    ],
)
def test_what_cannot_work_together_is_refused_before_it_trains(change, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(RECIPE.changed(**change), RECIPE.dataset())


def test_a_trainer_gets_the_method_of_its_recipe_and_its_augmentation():
    recipe = RECIPE.changed(
        widths=(0.5, 1.0), width_sampling="sandwich", distills=True, attack_precision="bf16", augmentation="crop"
    )
    recipe = recipe.changed(eps=8.0, allow_large_eps=True, channels_last=True)
    data = recipe.dataset()
    trainer = trainer_for(recipe, data)
    for name in ("width_sampling", "distills", "precision", "attack_precision", "ema"):
        assert getattr(trainer.method, name) == getattr(recipe.method, name)
    assert trainer.method.augmentation == recipe.augment(data)
    model = trainer.get_classifier().model
    assert list(model.conversion["input_shape"]) == [1, 8, 8]
    weight = model.network.features[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_weights_trained_with_channels_last_are_kept_and_are_the_same_to_rounding(tmp_path):
    recipe = RECIPE.changed(lambdas=(0.0,), augmentation="crop")  # no sign of a gradient
    states = []
    for channels_last in (False, True):
        chosen = recipe.changed(channels_last=channels_last)
        train(chosen, chosen.dataset(), folder=tmp_path / str(channels_last), keeps_best=False, verbose=False)
        states.append(load_model(tmp_path / str(channels_last)).state_dict())
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-5)  # float32, summed in another order


def test_every_width_of_a_recipe_is_trained_and_kept(tmp_path):
    recipe = RECIPE.changed(widths=(0.5, 1.0), heads="per-width", width_sampling="all")
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
