# ruff: noqa: NPY002 - the legacy generator is the one that ART draws from
import numpy as np
import pytest
import torch
from art.defences.preprocessor import (
    CutMix,
    Cutout,
    FeatureSqueezing,
    GaussianAugmentation,
    JpegCompression,
    LabelSmoothing,
    Mixup,
    MixupPyTorch,
)
from art.defences.preprocessor.preprocessor import Preprocessor

from art_oat import PGD, OATTrainer
from art_oat.training.preprocessing import preprocessing_faults
from tests.conftest import make_classifier
from tests.networks import changed, images, labels, state


class Relabel(Preprocessor):
    """Gives every sample the first class, and needs no labels for it."""

    def __call__(self, x, y=None):
        return x, None if y is None else np.roll(y, 1)


class Drop(Preprocessor):
    """Leaves out every second sample."""

    def __call__(self, x, y=None):
        return x[::2], None if y is None else y[::2]


UNFIT = [
    (LabelSmoothing(0.9), "LabelSmoothing needs labels"),
    (Mixup(5), "Mixup needs labels"),
    (MixupPyTorch(5, device_type="cpu"), "MixupPyTorch needs labels"),
    (CutMix(5, channels_first=True), "CutMix needs labels"),
    (GaussianAugmentation(augmentation=True, ratio=0.01), "GaussianAugmentation adds samples"),
    (Relabel(), "Relabel changes labels"),
    (Drop(), "Drop makes 1 samples of 2"),
]


@pytest.mark.parametrize(("preprocessor", "fault"), UNFIT)
def test_what_needs_or_changes_labels_or_the_number_of_samples_is_refused_by_name(preprocessor, fault):
    classifier = make_classifier(preprocessing_defences=preprocessor)
    with pytest.raises(ValueError, match=rf"{fault}\..*label_smoothing=.*OATTrainer\(augmentation="):
        OATTrainer(classifier)


def test_what_came_after_the_trainer_was_made_is_refused_by_fit_before_anything_is_touched():
    classifier = make_classifier()
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1))
    classifier.set_params(preprocessing_defences=[LabelSmoothing(0.9), Drop()])
    before = state(classifier.model)
    with pytest.raises(ValueError, match=r"LabelSmoothing needs labels\. Drop makes 1 samples of 2\."):
        trainer.fit(images(dtype=torch.float32).numpy(), labels().numpy(), nb_epochs=1, verbose=False)
    assert not changed(classifier.model, before)


@pytest.mark.parametrize(
    "preprocessor",
    [
        GaussianAugmentation(sigma=0.1, augmentation=False),
        FeatureSqueezing((0, 1)),
        JpegCompression((0, 1), channels_first=True),
        Cutout(2, channels_first=True),
        LabelSmoothing(0.9, apply_fit=False, apply_predict=False),
    ],
)
def test_what_changes_inputs_one_by_one_trains_on(preprocessor):
    classifier = make_classifier(preprocessing_defences=preprocessor)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert preprocessing_faults(classifier) == []
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1))
    trainer.fit(images(dtype=torch.float32).numpy(), labels().numpy(), nb_epochs=1, verbose=False)
