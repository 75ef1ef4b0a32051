import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

from tests.classifier.subjects import ONE_HOT, X, Y, plain
from tests.conftest import make_classifier


class Square(PreprocessorPyTorch):
    """A defense in torch that bends the gradient."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu", is_fitted=True)

    def forward(self, x, y=None):
        return x.square(), y


PREPROCESSING = {
    "standardization": {"preprocessing": (0.4, 0.25)},
    "torch defense": {"preprocessing_defences": Square(), "preprocessing": (0.4, 0.25)},
    "array defense": {"preprocessing_defences": SpatialSmoothing(3)},
    "array defense, standardized": {"preprocessing_defences": SpatialSmoothing(3), "preprocessing": (0.4, 0.25)},
}


@pytest.mark.parametrize("options", PREPROCESSING.values(), ids=PREPROCESSING.keys())
def test_preprocessing_is_part_of_predictions_views_and_modules_and_gradients_pass_as_in_art(options):
    classifier = make_classifier(**options)
    network = plain(classifier, 0.3, **options)
    x = torch.from_numpy(X).requires_grad_()
    scores = classifier.at(0.3).as_module()(x)
    for answer in (classifier.predict(X, lam=0.3), classifier.at(0.3).predict(X), scores.detach().numpy()):
        np.testing.assert_allclose(answer, network.predict(X), rtol=1e-4, atol=1e-5)
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(Y)).backward()
    np.testing.assert_allclose(x.grad.numpy(), network.loss_gradient(X, ONE_HOT), rtol=1e-3, atol=1e-5)
