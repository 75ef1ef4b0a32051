import pytest

from art_oat import save_model, to_conditional
from art_oat.experiment.info import Info
from art_oat.experiment.recipe import Recipe
from art_oat.model_io import Architecture
from art_oat.models import SmallCNN


@pytest.mark.parametrize("architecture", [None, Architecture("SmallCNN", {"channels": [4, 8]})])
def test_a_folder_of_save_model_alone_says_what_the_model_is_and_that_no_more_is_known(tmp_path, architecture):
    model = to_conditional(SmallCNN(channels=(4, 8)), (0.0, 1.0), widths=(0.5, 1.0))
    save_model(model, tmp_path, architecture)
    found = Info.of(tmp_path)
    assert (found.lambdas, found.widths, found.dtype) == ((0.0, 1.0), (0.5, 1.0), "float32")
    each_once = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}  # some are shared
    assert found.nb_numbers == sum(each_once.values())
    assert (found.recipe, found.version, found.is_complete, found.curve) == (None, None, None, None)
    assert set(found.files) == {"config.json", "model.safetensors"}
    assert found.network.startswith("SmallCNN")
    assert "not known" in str(found)


def test_a_pretrained_network_has_its_recipe_and_its_curve():
    found = Info.of("digits")
    assert isinstance(found.recipe, Recipe)
    assert found.recipe.lambdas == found.lambdas
    assert found.curve is not None
    assert Recipe.from_values(found.as_values()["recipe"]) == found.recipe
