import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import RandomCropFlip, StratifiedSampling
from art_oat.attacks import PGD
from art_oat.data import Dataset, Split
from art_oat.experiment.recipe import Recipe
from art_oat.models import ResNet, SmallCNN, WideResNet
from art_oat.training import Method, OneCycle, Piecewise, WarmUp

RECIPE = Recipe(data="digits")


@pytest.mark.parametrize(("name", "kind"), [("small-4", SmallCNN), ("resnet18", ResNet), ("wrn-10-1", WideResNet)])
def test_a_short_name_means_a_network_for_the_images_at_hand(name, kind):
    data = RECIPE.dataset()
    network = RECIPE.changed(network=name).architecture(data).build()
    assert isinstance(network, kind)
    assert network(torch.zeros(2, *data.input_shape)).shape == (2, data.nb_classes)


def test_every_fault_of_a_recipe_is_named():
    with pytest.raises(ValueError, match=r"network must be.*schedule must be.*lambdas must hold.*widths must hold"):
        RECIPE.changed(network="vgg", schedule="up", lambdas=(2.0,), widths=(0.5,))
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4"):
        RECIPE.changed(network="wrn-11-1")


@pytest.mark.parametrize(
    "change",
    [
        *({"learning_rate": value} for value in (-1, 0)),
        {"weight_decay": -1},
        {"optimizer": "adam"},
        *({"lr_warmup": value} for value in (0, 1)),
        *({"batch_size": value} for value in (0, 1)),
        {"nb_epochs": 0},
        {"nb_train": 0},
        {"label_smoothing": 1.0},
        {"augmentation": "mixup"},
        {"seed": -1},
        {"widths": 0.5},
        {"widths": (1.0, 1.0)},
        {"ema": 2},
        {"width_sampling": "some"},
        {"attack": PGD(0.1)},
        {"heads": "per-width"},
        {"width_sampling": "all"},
        {"distills": True, "width_sampling": "all"},
    ],
)
def test_what_no_training_could_use_or_no_file_hold_is_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RECIPE.changed(**change)


def test_a_flag_of_another_kind_is_refused_by_name():
    with pytest.raises(TypeError, match="channels_last must be True or False"):
        RECIPE.changed(channels_last=1)


@pytest.mark.parametrize(
    ("given", "kind", "rate", "decay"),
    [
        ({}, torch.optim.SGD, 0.1, 5e-4),
        ({"optimizer": "adamw"}, torch.optim.AdamW, 1e-3, 0.05),
        ({"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}, torch.optim.AdamW, 0.01, 0.0),
    ],
)
def test_an_optimizer_has_its_usual_learning_rate_and_weight_decay_unless_they_are_given(given, kind, rate, decay):
    optimizer = RECIPE.changed(**given).optimizer_for(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [
        (rate, decay, 1),
        (rate, 0.0, 3),
    ]


def test_a_warm_up_of_the_learning_rate_goes_before_any_schedule():
    assert RECIPE.changed(schedule="piecewise", lr_warmup=0.1).scheduler() == WarmUp(0.1, Piecewise())
    assert RECIPE.scheduler() == OneCycle()


def test_a_change_goes_to_the_recipe_or_to_its_method_and_unknown_names_are_refused():
    changed = RECIPE.changed(seed=3, eps=0.1, augmentation="crop")
    assert changed == replace(RECIPE, seed=3, augmentation="crop", method=Method(eps=0.1))
    with pytest.raises(TypeError, match="nb_epoch"):
        RECIPE.changed(nb_epoch=3)


def test_a_recipe_comes_back_from_json():
    recipe = Recipe(
        data="digits",
        lambdas=(0.0, 0.5, 1.0),
        widths=(0.5, 1.0),
        exempt=(),
        method=Method.robust(eps=0.1, sampling=StratifiedSampling({1.0: 2.5, 0.5: 3.0}), width_sampling="all"),
    )
    assert Recipe.from_values(json.loads(json.dumps(recipe.as_values()))) == recipe
    for faulty in ({}, {"network_of_tomorrow": 1}, {**recipe.as_values(), "network_of_tomorrow": 1}):
        with pytest.raises((KeyError, TypeError)):
            Recipe.from_values(faulty)


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
