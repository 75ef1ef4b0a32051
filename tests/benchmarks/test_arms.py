from dataclasses import replace

import numpy as np
import pytest
import torch

from art_oat.experiment.build import trainer_for
from art_oat.training import schedule_by_name
from benchmarks.arms import arms, train
from benchmarks.baselines import PacedBatches
from benchmarks.configs import DIGITS

CONFIG = replace(
    DIGITS.shortened(), recipe=DIGITS.recipe.changed(network="small-4", nb_epochs=1, attack="pgd-1", batch_size=512)
)


@pytest.fixture(scope="module")
def part():
    return next(CONFIG.parts())


def plain_optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)


def test_an_epoch_of_batches_holds_every_image_once_with_its_label(part):
    recipe = CONFIG.recipe.changed(batch_size=100)
    batches = PacedBatches(recipe, part.data, plain_optimizer())
    given = [batches.get_batch() for _ in range(-(-len(part.data.train.x) // 100))]
    x, y = (np.concatenate(parts) for parts in zip(*given, strict=True))
    assert not np.array_equal(x, part.data.train.x)
    rows = {(image.tobytes(), int(label)) for image, label in zip(x, y, strict=True)}
    assert rows == {(image.tobytes(), int(label)) for image, label in zip(*part.data.train, strict=True)}
    assert len(x) == len(part.data.train.x)


def test_batches_pace_the_learning_rate_as_the_trainer_does(part):
    recipe = CONFIG.recipe.changed(nb_epochs=3, lambdas=(0.0,))
    optimizer = plain_optimizer()
    batches = PacedBatches(recipe, part.data, optimizer)
    rates = []
    for _ in range(3 * -(-len(part.data.train.x) // recipe.batch_size)):
        batches.get_batch()
        rates.append(optimizer.param_groups[0]["lr"])
    trainer = trainer_for(recipe, part.data)
    own = []

    def augmentation(x, _):
        own.append(trainer.classifier.optimizer.param_groups[0]["lr"])
        return x

    trainer.method = replace(trainer.method, augmentation=augmentation)
    schedule = schedule_by_name(recipe.schedule)
    trainer.fit(*part.data.train, batch_size=recipe.batch_size, nb_epochs=3, scheduler=schedule, verbose=False)
    assert rates == pytest.approx(own)


@pytest.mark.parametrize("name", arms((0.0, 1.0)))
def test_every_arm_trains_from_the_same_weights_and_is_kept(part, tmp_path, name):
    still = replace(CONFIG, recipe=CONFIG.recipe.changed(learning_rate=1e-12, weight_decay=0.0, lambdas=(0.0, 1.0)))
    trained = train(name, still, part, tmp_path)
    again = train(name, still, part, tmp_path)
    torch.testing.assert_close(again.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
    assert again.seconds == trained.seconds > 0
    start = trainer_for(still.recipe.changed(seed=part.seed), part.data).get_classifier().model
    first = next(module for module in start.modules() if isinstance(module, torch.nn.Conv2d))
    own = next(module for module in trained.model.modules() if isinstance(module, torch.nn.Conv2d))
    torch.testing.assert_close(own.weight, first.weight, rtol=1e-5, atol=1e-6)  # steps of 1e-12


def test_a_folder_of_another_training_is_refused(part, tmp_path):
    train("lam-0", CONFIG, part, tmp_path)
    with pytest.raises(ValueError, match="must hold a training of the same settings"):
        train("lam-1", CONFIG, part, tmp_path)
    with pytest.raises(ValueError, match="name must be one of"):
        train("lam-7", CONFIG, part, tmp_path)
