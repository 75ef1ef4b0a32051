import json
import os
import re
import signal
import warnings

import numpy as np
import pytest
import torch

import art_oat
from art_oat import TradeoffCurve
from art_oat.experiment.run import Run
from art_oat.models import SmallCNN
from art_oat.training.step import Step
from tests.cli.subjects import DIGITS, MEASURING, TRAINED, call, said


@pytest.mark.slow(seconds=1)
def test_a_network_is_trained_on_a_file_of_arrays_and_evaluated(tmp_path):
    data, out = tmp_path / "images.npz", tmp_path / "run"
    generator = np.random.default_rng(0)
    np.savez(data, x=generator.random((60, 1, 6, 6), dtype=np.float32), y=np.arange(60) % 4)
    trained = call("train", "--data", str(data), "--out", str(out), *TRAINED, "--ema", "0.9", "--norm", "L2")
    assert trained.exit_code == 0, trained.output
    assert f"art-oat evaluate {out}" in trained.output
    measured = call("evaluate", "--lambdas", "0", "0.25", str(out), "--attack", "pgd-2", "--nb-robust", "10")
    assert measured.exit_code == 0, measured.output
    assert "L2, eps 0.2" in measured.output
    assert [point.lam for point in TradeoffCurve.from_csv(out / "tradeoff.csv").points] == [0.0, 0.25]
    assert (out / "tradeoff.png").exists()


@pytest.mark.slow(seconds=1)
def test_widths_are_trained_as_asked_and_evaluated_where_asked(tmp_path):
    widths = ("--widths", "0.25", "--widths", "0.5", "1", "--heads", "per-width", "--width-sampling", "sandwich")
    trained = call(*DIGITS, "--out", str(tmp_path), *widths, "--distills")
    assert trained.exit_code == 0, trained.output
    recipe = Run(tmp_path, print).recipe
    assert (recipe.widths, recipe.heads) == ((0.25, 0.5, 1.0), "per-width")
    assert (recipe.method.width_sampling, recipe.method.distills) == ("sandwich", True)
    measured = call("evaluate", *MEASURING, "--widths", "0.25", "1", str(tmp_path))
    assert measured.exit_code == 0, measured.output
    points = TradeoffCurve.from_csv(tmp_path / "tradeoff.csv").points
    assert [(point.lam, point.width) for point in points] == [(1.0, 0.25), (1.0, 1.0)]


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stop", "code"), [(interrupt, 130), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143)], ids=["Ctrl+C", "SIGTERM"]
)
def test_the_same_command_goes_on_with_a_training_that_was_cut_short(tmp_path, monkeypatch, stop, code):
    arguments = (*DIGITS, "--out", str(tmp_path), "--nb-epochs", "2", "--precision", "bf16", "--channels-last")
    unchanged, handler = Step.start_epoch, signal.getsignal(signal.SIGTERM)

    def start_epoch(self, epoch, **options):
        if epoch == 2:
            stop()
        unchanged(self, epoch, **options)

    monkeypatch.setattr(Step, "start_epoch", start_epoch)
    assert call(*arguments).exit_code == code
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not (tmp_path / ".owner.json").exists()
    monkeypatch.undo()
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "Going on with the training in" in result.output
    assert "Going on after epoch 1 of 2, from" in said(result)
    recipe = Run(tmp_path, print).recipe
    assert (recipe.method.precision, recipe.channels_last, recipe.nb_epochs) == ("bf16", True, 2)


def test_a_training_that_diverges_is_restored_on_demand_and_each_restore_is_one_line(tmp_path, monkeypatch):
    fit, unchanged = art_oat.OATTrainer.fit, warnings.showwarning

    def at_a_rate_too_high(self, *data, **options):
        self.classifier.optimizer.param_groups[0]["lr"] = 1e30
        fit(self, *data, **options)

    monkeypatch.setattr(art_oat.OATTrainer, "fit", at_a_rate_too_high)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = call(*DIGITS, "--out", str(tmp_path), "--on-nan", "restore")
    assert result.exit_code == 1
    assert "Invalid value" not in result.output
    lines = [line for line in result.output.splitlines() if "Warning" in line]
    assert [re.search(r"Warning: training diverged, .* \((.*)\)\.", line)[1] for line in lines] == [
        f"restore {number} of 3" for number in (1, 2, 3)
    ]
    assert "It was restored 3 times" in said(result)
    assert warnings.showwarning is unchanged


@pytest.mark.slow(seconds=1)
def test_weights_of_another_training_are_replaced_only_on_demand(tmp_path):
    arguments = (*DIGITS, "--out", str(tmp_path))
    assert call(*arguments).exit_code == 0
    assert "Reusing the weights" in call(*arguments).output
    weights = (tmp_path / "model.safetensors").read_bytes()
    refused = call(*arguments, "--seed", "1")
    assert refused.exit_code == 2
    assert "recipe.seed was 0, is 1" in said(refused)
    assert "--overwrite" in refused.output
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert call(*arguments, "--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data cifar11", "must be one of"),
        ("--data digits --network vgg --schedule up", "--network must be"),
        ("--data digits --lambdas 0;1", "--lambdas must be numbers"),
        ("--data digits --lambdas 0 0.5 --weight-of-one 2", "--weight-of-one needs lam 1 among lambdas"),
        ("--data digits --widths -0.5", "widths must hold distinct numbers in (0, 1]"),
        ("--data digits --widths 0.5 0.75", "1 among them"),
        ("--data digits --widths 0.5,1 --heads two --width-sampling some", "--width-sampling must be one of"),
        ("--data digits --heads per-width", "--heads, --width-sampling and --distills are for several widths"),
        ("--data digits --attack art:Nothing", "attack must be a class of art"),
        ("--data digits --precision fp8", "precision must be one of"),
        ("--data digits --recipe best", "must be one of"),
        ("--data digits --recipe fast --norm L2", "norm must be 'Linf' for n-fgsm"),
        ("--data digits --loss hinge --awp -1", "--awp must be a number above 0"),
        ("--data digits --pretrained nowhere.pt", "pretrained must name a file with weights"),
        ("--data cifar10 --data-folder nowhere", "cifar-10-python.tar.gz"),
        ("--data digits --eps 8:255", "--eps must be a number or a fraction"),
        ("--data digits --eps-step 2/0", "--eps-step must be a number or a fraction"),
        ("--data digits --checkpoint-steps 0", "'--checkpoint-steps'"),
        ("--data digits --checkpoint-minutes -1", "'--checkpoint-minutes'"),
        ("--data digits --eps 8", "write 8 / 255"),
        ("--data digits --eps 8 --norm L2", "eps must be below 4 (L2)"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments, message):
    result = call("train", "--out", str(tmp_path / "new"), "--network", "small-4", *arguments.split())
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow(seconds=1)
def test_a_training_takes_options_before_the_recipe_s_and_radii_as_fractions(tmp_path):
    torch.save(SmallCNN(channels=(4,)).state_dict(), tmp_path / "plain.pt")
    begin = ("--pretrained", str(tmp_path / "plain.pt"), "--recipe", "fast", "--fallback", "", "--loss", "trades")
    out = tmp_path / "run"
    trained = call(*DIGITS, "--out", str(out), *begin, "--eps", "40/255", "--eps-step", "10/255")
    assert trained.exit_code == 0, trained.output
    method = Run(out, print).recipe.method
    assert (method.attack, method.fallback, method.loss, method.clean_share) == ("pgd-1", None, "trades", 0.0)
    assert (method.eps, method.eps_step, method.ema) == (40 / 255, 10 / 255, 0.999)
    assert "Linf, eps 40/255, images in [0, 1]" in call("evaluate", str(out), *MEASURING).output
    curve = TradeoffCurve.from_csv(out / "tradeoff.csv")
    assert curve.eps == 40 / 255
    assert "at eps 40/255 (Linf)" in curve.plot()._suptitle.get_text()
    large = call("evaluate", str(out), *MEASURING, "--eps", "8")
    assert large.exit_code == 2
    assert "--allow-large-eps" in large.output
    assert "Linf, eps 8," in call("evaluate", str(out), *MEASURING, "--eps", "8", "--allow-large-eps").output


@pytest.mark.slow(seconds=1)
def test_a_network_of_the_users_own_is_trained_by_name_and_evaluated_where_its_code_is_trusted(tmp_path):
    name, out = "tests.models.test_external:tiny", str(tmp_path)
    words = ["train", "--data", "digits", "--nb-train", "50", *TRAINED[2:], "--network", name, "--out", out]
    trained = call(*words, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    assert f"on the CPU ({torch.get_num_threads()} threads)" in said(trained)
    refused = call("evaluate", out, *MEASURING)
    assert refused.exit_code == 2
    assert f"its network is {name}, and loading it would run that code" in said(refused)
    assert call("evaluate", out, *MEASURING, "--trust-network").exit_code == 0
    assert call(*words).exit_code == 0


@pytest.mark.slow(seconds=1)
def test_what_run_json_holds_is_accepted_back_and_options_come_before_it(tmp_path):
    first, whole, alone = tmp_path / "first", tmp_path / "whole", tmp_path / "alone"
    assert call(*DIGITS, "--out", str(first), "--ema", "0.9").exit_code == 0
    assert call("train", "--config", str(first / "run.json"), "--out", str(whole)).exit_code == 0
    assert (whole / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    recipe = Run(first, print).recipe
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.as_values()))
    options = ("--seed", "1", "--eps", "0.1")
    result = call("train", "--config", str(tmp_path / "recipe.json"), "--out", str(alone), *options)
    assert result.exit_code == 0, result.output
    assert Run(alone, print).recipe == recipe.changed(seed=1, eps=0.1)


def test_a_configuration_goes_with_no_named_recipe(tmp_path):
    (tmp_path / "recipe.json").write_text('{"data": "digits"}')
    config = ("--config", str(tmp_path / "recipe.json"))
    result = call("train", *config, "--recipe", "fast", "--out", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert "one of --config and --recipe must be given, got both" in said(result)
