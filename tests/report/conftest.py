import pytest

from art_oat import load_model
from art_oat.report import collect
from tests.report.subjects import RECIPE, trained


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "of-two-widths")


@pytest.fixture(scope="package")
def report(run):
    return collect(run, nb_images=40)


@pytest.fixture(scope="package")
def data():
    return RECIPE.dataset(keeps_levels=True)


@pytest.fixture(scope="package")
def classifier(run, data):
    return RECIPE.classifier(load_model(run.folder), data.input_shape, data.nb_classes, device_type="cpu")
