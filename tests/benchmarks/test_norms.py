import pytest

from art_oat.layers import SampleNorm
from art_oat.surgery import to_conditional
from benchmarks import norms


@pytest.mark.parametrize(
    ("arm", "nb_sides", "has_film"), [("both", 2, True), ("table", 1, True), ("two weights", 2, False)]
)
def test_the_arms_differ_in_what_depends_on_lam_alone(arm, nb_sides, has_film):
    recipe = norms.NETWORKS["digits"]["vit"].changed(**norms.VARIANTS[arm])
    film = {"film_on": ()} if recipe.film is None else {"film": recipe.film}
    model = to_conditional(recipe.architecture(recipe.dataset()).build(), statistics=recipe.statistics, **film)
    layers = [part for part in model.modules() if isinstance(part, SampleNorm)]
    assert layers
    for layer in layers:
        assert sum(side is not None for side in (layer.clean, layer.adversarial)) == nb_sides
        assert (layer.film is not None) == has_film
