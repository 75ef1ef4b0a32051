"""Few samples: norms that were kept, sides of a norm, and what is said of statistics that do not suit."""

import copy
import warnings

import pytest
import torch
from art.data_generators import NumpyDataGenerator
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from art_oat.training import StatisticsWarning
from tests.networks import Residual, conv, images, labels, sequential
from tests.training.trained import classifier_of


class Deep(nn.Module):
    """Norms of a single pixel, in two and in no dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.kept2d, self.kept1d = nn.BatchNorm2d(8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.kept1d(self.kept2d(self.body(x)).flatten(1)))


def fitted(
    network: nn.Module, nb_samples: int, batch_size: int, *, nb_epochs: int = 1, **options: object
) -> OATClassifier:
    torch.manual_seed(0)
    classifier = classifier_of(to_conditional(network, (0, 0.5, 1), **options))
    x, y = images(nb_samples, torch.float32).numpy(), labels(nb_samples).numpy()
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1))
    trainer.fit(x, y, nb_epochs=nb_epochs, batch_size=batch_size, verbose=False)
    return classifier


@pytest.mark.filterwarnings("ignore::art_oat.training.StatisticsWarning")
@pytest.mark.parametrize("keep", [(), ["kept2d"], ["kept1d"], ["kept2d", "kept1d"]])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_kept_norms_train_in_batches_of_one_and_two(keep, batch_size):
    model = fitted(Deep(), 2 * batch_size + 1, batch_size, keep=keep).model  # so the last batch holds one sample
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize("keep", [["kept2d", "kept1d"], ()])
def test_a_norm_that_gets_one_value_per_channel_answers_by_its_running_statistics_and_leaves_them(keep):
    model = to_conditional(Deep().double(), keep=keep).train()
    before = copy.deepcopy(model.state_dict())
    x = images(1)
    answer = model(x, 0.5)
    evaluated = copy.deepcopy(model)
    evaluated.eval()
    evaluated.network.body.train()  # the norm in front sees 36 values, and uses those
    evaluated.load_state_dict(before)
    torch.testing.assert_close(answer, evaluated(x, 0.5))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if ".kept" in name)
    assert all(part.training for part in model.network.modules())


@pytest.mark.parametrize("is_training_before", [True, False])
@pytest.mark.parametrize("by", ["the trainer", "the classifier", "a generator"])
def test_after_fit_the_network_answers_as_predict_does_and_moves_no_statistic(by, is_training_before):
    torch.manual_seed(0)
    model = to_conditional(Residual(), (0, 0.5, 1)).train(is_training_before)
    classifier = classifier_of(model)
    x, y = images(24, torch.float32), labels(24)
    if by == "the trainer":
        OATTrainer(classifier, attack=PGD(0.1, nb_steps=1)).fit(x.numpy(), y.numpy(), nb_epochs=1, verbose=False)
    elif by == "the classifier":
        classifier.fit(x.numpy(), y.numpy(), nb_epochs=1)
    else:
        classifier.fit_generator(NumpyDataGenerator(x.numpy(), y.numpy(), batch_size=8), nb_epochs=1)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x).numpy(), classifier.predict(x.numpy()))
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sides_of_a_norm_that_see_few_values_are_told_of_with_the_remedy():
    network = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), conv(8, 8))
    network = nn.Sequential(*network, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    with pytest.warns(
        StatisticsWarning, match=r"a batch of 3 .* 5\.clean computes its statistics from 4 values"
    ) as seen:
        fitted(network, 3, 3)
    assert seen[0].filename == __file__
    assert "larger batches" in str(seen[0].message)


def test_nothing_is_said_where_every_side_sees_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(sequential(), 24, 12)


def test_scores_that_are_of_another_size_in_evaluation_are_told_of():
    """Values hardly vary in a batch, and jump from one to the next: running variance and mean do not suit."""

    class Jumping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(1, momentum=1.0), nn.Linear(1, 5)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.head(self.norm(1e-3 * x + self.calls).mean(dim=(2, 3)))

    with pytest.warns(StatisticsWarning, match=r"in evaluation at lam 0, width 1, scores reach .* in training") as seen:
        fitted(Jumping(), 24, 12, nb_epochs=26)
    assert seen[0].filename == __file__


@pytest.mark.filterwarnings("ignore::art_oat.training.StatisticsWarning")
@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_kept_norm_that_gets_its_input_by_keyword_trains_as_one_that_gets_it_by_position(batch_size):
    class ByKeyword(Deep):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.kept1d(input=self.kept2d(input=self.body(x)).flatten(1)))

    keep = ["kept2d", "kept1d"]
    states = [
        fitted(kind(), 2 * batch_size + 1, batch_size, keep=keep).model.state_dict() for kind in (Deep, ByKeyword)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
