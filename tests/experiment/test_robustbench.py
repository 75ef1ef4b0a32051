import json
import math
from dataclasses import replace

import pyautoattack
import pytest
import torch

from art_oat import load_model
from art_oat.evaluation.shards import Shard
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.robustbench import network_in, submit
from art_oat.experiment.run import Run
from art_oat.experiment.submission import Submission
from art_oat.lock import LOCK, locked
from art_oat.training import Method

RECIPE = Recipe(
    data="digits",
    network="small-8-16",
    nb_epochs=4,
    lambdas=(0.0, 1.0),
    widths=(0.5, 1.0),
    method=Method(attack="pgd-2", eps=0.05),
    learning_rate=0.4,
)
DATA = RECIPE.dataset()
NB_IMAGES = 12
X, Y = (torch.from_numpy(part[:NB_IMAGES]) for part in DATA.test)
ONE = Submission(lam=0.6, width=0.5, nb_images=NB_IMAGES, name="It2026Is")


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "dial"
    Run(folder, quiet).train(RECIPE, DATA)
    return folder


@pytest.fixture(scope="module")
def entry(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("entry")
    submit(Run(run, quiet), ONE, folder, nb_workers=1)
    return folder


def clean_accuracy(model, x, y, batch_size=100, device=None):
    """Count right answers as RobustBench's function of this name and signature does."""
    right = 0.0
    with torch.no_grad():
        for place in range(math.ceil(len(x) / batch_size)):
            part = slice(place * batch_size, (place + 1) * batch_size)
            right += (model(x[part].to(device)).max(1)[1] == y[part].to(device)).float().sum().item()
    return right / len(x)


def read(entry) -> tuple[dict, torch.Tensor]:
    """Return the JSON and the attacked images of an entry."""
    images = torch.load(entry / "It2026Is.pt", weights_only=True)
    return json.loads((entry / "It2026Is.json").read_text()), images


@pytest.mark.slow(seconds=1)
def test_it_writes_a_model_its_function_the_attacked_images_and_the_json_and_nothing_else(entry):
    model = {"config.json", "model.safetensors", "model.py"}
    assert {path.name for path in entry.iterdir()} - {LOCK} == {*model, "It2026Is.json", "It2026Is.pt"}


def test_the_function_gives_an_ordinary_network_that_answers_as_the_run_does_at_the_point(run, entry):
    network = network_in(entry)
    assert not any(module.training for module in network.modules())
    assert not any(type(module).__module__.startswith("art_oat.layers") for module in network.modules())
    expected = load_model(run)(X, lam=0.6, width=0.5)
    torch.testing.assert_close(network(X), expected)


def test_the_images_are_the_first_ones_of_the_test_part_in_their_order_within_the_ball(entry):
    _, images = read(entry)
    assert (images.shape, images.dtype, images.device.type) == (X.shape, torch.float32, "cpu")
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert float((images - X).abs().max()) <= RECIPE.method.eps + 1e-6
    assert not torch.equal(images, X)


def test_the_accuracies_are_those_of_the_function_on_the_test_images_and_on_those_in_the_file(entry):
    found, images = read(entry)
    network = network_in(entry)
    assert found["clean_acc"] == f"{100 * clean_accuracy(network, X, Y, batch_size=7):.2f}"
    assert found["autoattack_acc"] == f"{100 * clean_accuracy(network, images, Y, batch_size=7):.2f}"
    assert 0 < float(found["autoattack_acc"]) < float(found["clean_acc"])  # or the test says nothing


@pytest.mark.slow
def test_autoattack_run_on_the_function_as_robustbench_runs_it_finds_as_much(entry):
    network = network_in(entry)
    attack = pyautoattack.AutoAttack(
        network, norm="Linf", eps=RECIPE.method.eps, version="standard", device="cpu", seed=1
    )
    result = attack.run_standard_evaluation(X, Y, batch_size=NB_IMAGES)
    x_adv = result[0] if isinstance(result, tuple) else result
    ours = float(read(entry)[0]["autoattack_acc"]) / 100
    assert clean_accuracy(network, x_adv, Y) == pytest.approx(ours, abs=1.5 / NB_IMAGES)  # of another seed: one image


@pytest.mark.slow(seconds=1)
def test_what_was_cut_short_is_gone_on_with_and_comes_to_the_same_files(run, tmp_path, monkeypatch):
    quick = replace(ONE, eps=0.49, shard_size=6)  # no image withstands this for long
    attacked, attack = [], Shard.attack

    def failing(shard, *arguments):
        attacked.append(shard.number)
        if len(attacked) == 2:
            raise KeyboardInterrupt
        return attack(shard, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Shard, "attack", failing)
        with pytest.raises(KeyboardInterrupt):
            submit(Run(run, quiet), quick, tmp_path / "cut", nb_workers=1)
        assert not (tmp_path / "cut" / "It2026Is.json").exists()
        submit(Run(run, quiet), quick, tmp_path / "cut", nb_workers=1)
    assert attacked == [0, 1, 1]
    submit(Run(run, quiet), quick, tmp_path / "whole", nb_workers=1)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "cut").iterdir()} == names
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_a_run_and_one_that_another_works_in_are_refused_and_stay_as_they_are(run, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="out must be another folder than that of a run"):
        submit(Run(run, quiet), ONE, run)
    with locked(tmp_path / "out"), pytest.raises(RuntimeError, match="one process at a time"):
        submit(Run(run, quiet), ONE, tmp_path / "out")
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (Submission(width=0.75), r"width must be one of \(0.5, 1.0\)"),
        (Submission(lam=2), "lam must"),
        (Submission(nb_images=10**6), "nb_images must be at most 450"),
    ],
)
def test_what_the_run_does_not_have_is_refused_before_anything_is_written(run, tmp_path, submission, message):
    with pytest.raises(ValueError, match=message):
        submit(Run(run, quiet), submission, tmp_path / "out")
    assert not (tmp_path / "out").exists()
