from dataclasses import replace

from art_oat.experiment.identity import regardless_of_divergence, training_identity
from art_oat.experiment.recipe import Recipe

RECIPE = Recipe(data="digits", nb_train=100)


def test_another_recipe_and_other_data_are_another_training():
    data = RECIPE.dataset()
    own = training_identity(RECIPE, data)
    assert training_identity(RECIPE, RECIPE.dataset()) == own
    assert training_identity(replace(RECIPE, seed=1), data) != own
    assert training_identity(RECIPE, replace(RECIPE, nb_train=101).dataset()) != own


def test_what_follows_where_a_training_diverges_is_no_part_of_what_was_trained_so_far():
    data = RECIPE.dataset()
    other = replace(RECIPE, method=replace(RECIPE.method, on_nan="restore"))
    both = [training_identity(recipe, data) for recipe in (RECIPE, other)]
    assert both[0] != both[1]
    assert regardless_of_divergence(both[0]) == regardless_of_divergence(both[1])
