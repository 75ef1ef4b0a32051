import json
import signal
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from art_oat import load_model
from art_oat.models import resnet18
from art_oat.training.step import Step
from benchmarks import gpu, shards
from benchmarks.arms import recipe_of
from benchmarks.budget import Budget, OutOfTime
from benchmarks.frontiers import Arm
from benchmarks.gpu import FULL, SMALL, Piece, forecast, pieces, work
from benchmarks.gpu_kit import CLAIMS, Kit, answers, figures, verdicts
from benchmarks.throughput import PEAKS, Profile, Speed, published_peak, speed_of

TINY = replace(
    SMALL, recipe=SMALL.recipe.changed(network="small-8", batch_size=64, attack="pgd-1", lambdas=(0.0, 0.5, 1.0))
)


class Clock:
    """Stands still but for what is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kit_of(folder, seconds: float = 600.0, clock=time.monotonic, config=TINY) -> Kit:
    return Kit(config, folder, Budget(seconds, clock), nb_steps=1)


def named(*names: str) -> list[Piece]:
    return [piece for piece in pieces() if piece.is_one_of(names)]


def lasting(clock: Clock, seconds: float, done: list[str]):
    """Return work that takes some seconds of a clock."""

    def act(kit: Kit, piece: Piece) -> dict[str, object]:
        clock.now += seconds
        done.append(piece.name)
        return {}

    return act


def arm(name: str, lambdas: tuple[float, ...], clean: list[float], robust: list[float]) -> Arm:
    """Return a method that answers shares of 100 images right."""
    right = [[np.arange(100) < round(100 * share) for share in shares] for shares in (clean, robust)]
    return Arm(name, lambdas, np.array(right, dtype=float)[:, :, np.newaxis], 1.0, "wall", 1, "")


def test_what_fits_is_what_ends_before_the_time_is_up():
    clock = Clock()
    budget = Budget(10, clock)
    clock.now = 4.0
    assert budget.left() == 6
    assert budget.fits(5.9)
    assert not budget.fits(6)
    clock.now = 11.0
    assert budget.left() == 0


def test_an_enforced_budget_ends_whatever_is_under_way_and_nothing_after_it():
    with pytest.raises(OutOfTime), Budget(0.05).enforced():
        time.sleep(20)
    before = signal.getsignal(signal.SIGALRM)
    with Budget(0.05).enforced():
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before


def test_out_of_time_passes_by_what_handles_errors():
    assert not issubclass(OutOfTime, Exception)


@pytest.mark.slow(seconds=1)
def test_pieces_are_done_in_their_order_as_far_as_they_fit_and_none_twice(tmp_path):
    clock, done = Clock(), []
    asked = [Piece(name, lasting(clock, 30.0, done)) for name in ("first", "second", "third")]
    for _ in range(4):  # two fit: nothing is known of the third, for which 20 seconds must be left
        before = clock.now
        assert work(kit_of(tmp_path, 70.0, clock), asked)
        assert clock.now - before <= 70
    assert done == ["first", "second", "third"]


@pytest.mark.slow(seconds=1)
def test_a_piece_that_fails_keeps_from_others_of_its_method_alone_and_is_tried_again(tmp_path):
    clock, done = Clock(), []

    def fail(kit: Kit, piece: Piece) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    good = lasting(clock, 1.0, done)
    asked = [Piece("a training", fail, "a"), Piece("a judging", good, "a"), Piece("b training", good, "b")]
    assert not work(kit_of(tmp_path, 600.0, clock), asked)
    assert done == ["b training"]
    assert work(kit_of(tmp_path, 600.0, clock), [asked[0]._replace(work=good), *asked[1:]])
    assert done == ["b training", "a training", "a judging"]


@pytest.mark.slow(seconds=1)
def test_the_seconds_of_a_piece_are_those_of_all_commands_also_where_it_was_cut(tmp_path):
    clock = Clock()

    def cut(kit: Kit, piece: Piece) -> dict[str, object]:
        clock.now += 7.0
        raise OutOfTime

    for act in (cut, cut, lasting(clock, 5.0, [])):
        kit = kit_of(tmp_path, 600.0, clock)
        work(kit, [Piece("it", act)])
    assert kit.kept("it") == {"is_done": True, "seconds": 19.0}


def test_an_epoch_that_does_not_fit_is_not_begun(tmp_path):
    (training,) = named("oat training")
    kit = kit_of(tmp_path, 50.0, Clock())
    timed = {"method": "oat", "seconds per epoch": 60.0, "GFLOP per image": 1.0}
    kit.keep("speed", {"is_done": True, "seconds": 1.0, "rows": [timed], "peak": {"rate": 1e12}})
    assert forecast(kit, training) == (60.0, 60.0 * TINY.recipe.nb_epochs)
    work(kit, [training])
    assert not kit.epochs("oat")


def test_judging_is_forecast_by_the_slowest_lam_of_what_was_judged(tmp_path):
    judged, asked = named("lam-1 judging", "oat judging")[::-1]
    kit = kit_of(tmp_path)
    assert np.isnan(forecast(kit, asked)).all()
    kit.keep(judged.name, {"is_done": True, "seconds": 40.0, "lambdas": [1.0]})
    assert forecast(kit, asked) == (40.0, 40.0 * len(TINY.recipe.lambdas))  # 20 images are one shard


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Kit:
    kit = kit_of(tmp_path_factory.mktemp("whole"))
    work(kit, named("oat"))
    return kit


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("cut_in", [1, 2])
def test_a_training_that_was_cut_gives_the_very_weights_and_answers_of_one_that_was_not(
    whole, tmp_path, monkeypatch, cut_in
):
    cut = kit_of(tmp_path)
    end_epoch = Step.end_epoch

    def stop(step: Step) -> None:
        end_epoch(step)
        if step.epoch == cut_in:
            raise OutOfTime

    with monkeypatch.context() as patch:
        patch.setattr(Step, "end_epoch", stop)
        work(cut, named("oat"))
    assert len(cut.epochs("oat")) == cut_in - 1
    work(cut, named("oat"))
    weights = [load_file(kit.state / "oat" / "model.safetensors") for kit in (whole, cut)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)
    np.testing.assert_array_equal(*(answers(kit.state / "oat") for kit in (whole, cut)))


@pytest.mark.slow(seconds=1)
def test_judging_that_was_cut_goes_on_and_judges_nothing_twice(tmp_path, monkeypatch):
    kit = kit_of(tmp_path)
    work(kit, named("lam-1 training"))
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "load_model", lambda folder: (_ for _ in ()).throw(OutOfTime))
        work(kit, named("lam-1 judging"))
    assert not kit.kept("lam-1 judging")["is_done"]
    work(kit, named("lam-1 judging"))
    right = answers(kit.state / "lam-1")
    assert right.shape == (2, 1, TINY.nb_test)
    assert np.isfinite(right).sum(axis=2).tolist() == [[TINY.nb_test], [TINY.nb_robust]]
    assert (right[1] <= right[0])[np.isfinite(right[1])].all()  # what is wrong as it is stands no attack


def test_a_folder_of_another_training_is_refused(tmp_path):
    kit_of(tmp_path).settle()
    kit_of(tmp_path).settle()
    other = replace(TINY, recipe=TINY.recipe.changed(batch_size=32))
    with pytest.raises(ValueError, match="another batch_size"):
        kit_of(tmp_path, config=other).settle()


@pytest.mark.slow(seconds=1)
def test_weights_in_small_files_are_the_network_up_to_the_rounding_of_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_FEWEST", 100)
    kit = kit_of(tmp_path, config=SMALL)
    work(kit, named("lam-1 training"))
    folder, limit = kit.state / "lam-1", 2500
    *files, _ = shards.split(folder, tmp_path / "small", "lam-1", limit)
    assert len(files) > 1
    assert all(sum(it.numel() * it.element_size() for it in load_file(path).values()) <= limit for path in files)
    shards.join(tmp_path / "small", "lam-1", tmp_path / "joined")
    whole, joined = (load_model(path).state_dict() for path in (folder, tmp_path / "joined"))
    assert whole.keys() == joined.keys()
    for name, tensor in whole.items():
        is_rounded = tensor.numel() >= 100
        torch.testing.assert_close(joined[name], tensor, rtol=2**-11 * is_rounded, atol=2**-25 * is_rounded)
    files[-1].unlink()
    with pytest.raises(FileNotFoundError, match="every file of lam-1"):
        shards.join(tmp_path / "small", "lam-1", tmp_path / "again")


def test_a_tensor_out_of_the_range_of_half_precision_stays_as_it_is():
    large = torch.full((2**16,), 1e6)
    assert shards._halved(large) is large
    assert shards._halved(large / 1e6).dtype == torch.float16
    with pytest.raises(ValueError, match="as large as every tensor"):
        list(shards._parted({"it": large}, 1000))


def test_no_tensor_of_the_network_of_full_size_is_too_large_for_a_file():
    with torch.device("meta"):
        sizes = [weight.numel() for weight in resnet18().parameters()]
    assert max(2 * size if size >= shards._FEWEST else 4 * size for size in sizes) <= shards.LIMIT < gpu.LARGEST
    assert FULL.recipe.network == "resnet18"


def test_trades_trains_the_plain_network_at_lam_1_by_its_own_loss_and_attack():
    recipe = recipe_of("lam-1-trades", FULL, 0)
    assert recipe == recipe_of("lam-1", FULL, 0).changed(loss="trades")


def test_a_profile_says_what_share_of_a_step_the_gpu_works_and_where_it_is_waited_for():
    shown = Profile(seconds=0.1, busy=0.025, nb_kernels=7, waits=Counter({"a.py:3": 2, "b.py:4": 1}), table="").text()
    assert "25%" in shown
    assert "3 times" in shown
    assert shown.index("a.py:3") < shown.index("b.py:4")


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("a new one", None)],
)
def test_the_peak_of_a_card_is_found_by_its_name(name, peak):
    assert published_peak(name) == peak
    assert published_peak("NVIDIA A100-SXM4-80GB") == PEAKS["A100"]


def test_images_per_second_and_the_share_of_the_peak_follow_from_a_step():
    row = Speed(nb_samples=128, seconds=0.5, flops=10**12, nb_bytes=0).row(8e12, nb_images=2560)
    assert (row["images/s"], row["share of the peak"], row["seconds per epoch"]) == (256, 0.25, 10)


def test_the_flops_of_a_step_are_those_of_its_attack_and_its_passes():
    # a convolution 1 -> 8 on 8 x 8, a linear layer 8 -> 10, and one attack step: forward and back to the images; then
    # attacked forward, back to all weights, and to all inputs but the images; clean forward, for the records; no FiLM
    recipe, part = kit_of(None).recipe("lam-1"), next(TINY.parts())
    convolution, linear = 2 * 9 * 1 * 8 * 8 * 8, 2 * 8 * 10
    forward, one_pass = convolution + linear, 2 * convolution + 3 * linear
    speed = speed_of(recipe, part.data, 1)
    assert speed.nb_samples == 64
    assert speed.flops == 64 * (2 * forward + forward + one_pass)


def test_figures_are_accuracies_and_the_gap_is_a_mean_over_three_of_them():
    one = arm("oat", (0.0, 0.5, 1.0), [0.92, 0.86, 0.80], [0.0, 0.3, 0.45])
    assert figures([]) == {}
    assert "mean gap to dedicated" not in figures([one])
    dedicated = [arm("lam-1", (1.0,), [0.83], [0.44]), arm("lam-0", (0.0,), [0.95], [0.0])]
    found = figures([*dedicated, one])
    assert found["clean at lam 0.5"] == pytest.approx(0.86)
    assert found["robust at lam 1"] == pytest.approx(0.45)
    assert found["mean gap to dedicated"] == pytest.approx((0.03 + 0.03 - 0.01) / 3)


def test_a_line_holds_from_where_it_is_drawn_on_and_is_open_until_it_is_measured():
    found = {"clean at lam 1": 0.80, "robust at lam 1": 0.449, "mean gap to dedicated": 0.015}
    assert [row["verdict"] for row in verdicts(found)] == ["holds", "FAILS", "not measured yet", "holds"]
    assert [row["line"] for row in verdicts({})] == [">= 80", ">= 45", ">= 92", "<= 1.5"]
    assert len(CLAIMS) == 4


def test_a_name_is_that_of_a_piece_or_its_first_word(capsys):
    assert [piece.name for piece in named("lam-1", "speed")] == ["speed", "lam-1 training", "lam-1 judging"]
    assert [piece.name for piece in named("lam-1-trades judging")] == ["lam-1-trades judging"]
    with pytest.raises(SystemExit):
        gpu.main(["--smoke", "--only", "lam"])
    assert "lam-1-trades" in capsys.readouterr().err


@pytest.mark.slow(seconds=1)
def test_results_are_there_after_every_piece_and_say_what_made_them(tmp_path):
    kit = kit_of(tmp_path)
    work(kit, named("lam-0", "lam-1 training"))
    whole = json.loads((kit.results / "results.json").read_text(encoding="utf-8"))
    assert whole["made by"]["command"]
    assert [row["method"] for row in whole["accuracies"]] == ["lam-0"]
    assert {row["method"] for row in whole["training"]} == {"lam-0", "lam-1"}
    assert whole["pieces"]["lam-0 judging"]["is_done"]
    assert not whole["pieces"]["oat training"]["is_done"]
    assert {path.name for path in kit.results.iterdir()} == {
        "results.json",
        "accuracies.csv",
        "training.csv",
        "answers.npz",
    }
    assert gpu.too_large(tmp_path) == []
    (kit.results / "large").write_bytes(bytes(gpu.LARGEST + 1))
    assert [path.name for path in gpu.too_large(tmp_path)] == ["large"]


@pytest.mark.slow
def test_a_smoke_run_goes_from_speed_to_lines_and_keeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--smoke"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert all(f"{piece.name} is done" in shown for piece in pieces())
    assert "mean gap to dedicated" in shown
    assert not list(tmp_path.iterdir())
