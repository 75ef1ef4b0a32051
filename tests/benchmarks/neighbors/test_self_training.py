import numpy as np
import pytest

from art_oat.data import Dataset, Split
from art_oat.experiment.recipe import Recipe
from benchmarks.neighbors import self_training
from benchmarks.neighbors.self_training import alone, images, joined, known, natural, pseudo, pseudo_labels
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer


def numbers(x):
    return sorted(map(bytes, x))


def test_a_third_of_the_images_keep_their_labels_in_the_classes_shares_and_none_is_lost():
    data = few_digits(90)
    labeled, others = images(data, RECIPE)
    assert (len(labeled.y), len(others.y)) == (30, 60)
    assert numbers(np.concatenate([labeled.x, others.x])) == numbers(data.train.x)
    counts = np.bincount(data.train.y) / 3
    assert (np.abs(np.bincount(labeled.y, minlength=10) - counts) < 1).all()


def test_where_some_images_are_kept_of_many_as_many_others_come_without_labels(monkeypatch):
    recipe = Recipe(data="digits", network="small-4", nb_train=100)
    data = recipe.dataset()
    labeled, others = images(data, recipe)
    assert labeled is data.train
    assert len(others.y) == 100
    assert not {*numbers(others.x)} & {*numbers(data.train.x)}
    with pytest.raises(ValueError, match="those that the recipe keeps"):
        images(data._replace(train=Split(data.train.x[::-1], data.train.y)), recipe)


def test_hidden_labels_are_not_learned_from(monkeypatch):
    data, recipe = few_digits(90), RECIPE.changed(nb_epochs=1)
    found = images(data, recipe)
    wrong = found._replace(others=Split(found.others.x, (found.others.y + 1) % 10))
    labels = pseudo_labels(data, recipe, found)
    np.testing.assert_array_equal(labels, pseudo_labels(data, recipe, wrong))
    assert joined(found, labels).y.tolist() == [*found.labeled.y, *labels]
    monkeypatch.setattr(self_training, "pseudo_labels", lambda *_: labels)
    batches = pseudo(trainer(data), data, recipe)
    assert sorted(batches.dataset.tensors[1].tolist()) == sorted([*found.labeled.y, *labels])


def test_the_natural_training_takes_as_many_steps_as_the_recipe():
    own = natural(RECIPE.changed(nb_epochs=5, weight_perturbation=0.01), 90, 30)
    assert (own.nb_epochs, own.lambdas, own.film, own.method.weight_perturbation) == (15, (0.0,), None, None)


@pytest.mark.parametrize(("prepare", "nb_images"), [(alone, 30), (known, 90)])
def test_all_trainings_take_the_steps_of_the_base(prepare, nb_images):
    data = few_digits(90)
    batches = prepare(trainer(data), data, RECIPE)
    assert len(batches) == -(-90 // RECIPE.batch_size)
    assert len(batches.dataset) == nb_images
    own = Dataset(Split(*(it.numpy() for it in batches.dataset.tensors)), data.validation, data.test)
    assert {*zip(map(bytes, own.train.x), own.train.y, strict=True)} <= {
        *zip(map(bytes, data.train.x), data.train.y, strict=True)
    }
