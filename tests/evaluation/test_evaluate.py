import itertools
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, AutoAttack, OATClassifier, OATTrainer, OperatingPoint, TradeoffCurve, to_conditional
from art_oat.attacks.autoattack import AutoAttackWarning
from art_oat.evaluation import RobustnessReport, evaluate
from art_oat.evaluation.evaluate import Evaluation, plan
from art_oat.evaluation.shards import WRONG
from tests.attacks.test_autoattack import UNRELIABLE, Probabilities, Stairs
from tests.conftest import make_classifier
from tests.evaluation.subjects import (
    Linear,
    Logged,
    Stopped,
    X,
    affine_classifier,
    exact_radii,
    linear_data,
    logged,
    plain_classifier,
    telling_eps,
    varied_classifier,
)
from tests.networks import Residual

ROOT = Path(__file__).parents[2]
POINTS = [OperatingPoint(lam, 1.0) for lam in (1.0, 0.3, 0.0)]


@pytest.fixture(scope="module")
def varied():
    return varied_classifier()


def answers(classifier=None) -> np.ndarray:
    """What the conditional network answers at lam 0.3, but for every fifth."""
    y = (classifier or varied_classifier()).predict(X, lam=0.3).argmax(axis=1)
    y[::5] = (y[::5] + 1) % 5
    return y


def judged(classifier, x=X, y=None, **options) -> RobustnessReport:
    y = answers(classifier) if y is None else y
    options = {"lam": 0.0, **options} if isinstance(classifier, OATClassifier) else options
    return evaluate(classifier, x, y, **{"eps": 0.05, "attack": "pgd-3", "verbose": False, **options})


# -- A known answer: no engine finds a sample broken that cannot be broken, and AutoAttack finds all that can. ---------


def compare(report: RobustnessReport, radii: torch.Tensor, *, is_exact: bool) -> None:
    can_stand = (radii > report.eps).numpy()
    assert report.clean == 1
    assert (report.is_robust | ~can_stand).all()
    assert 0 < can_stand.mean() <= report.robust < 1
    assert not is_exact or report.robust - can_stand.mean() <= 0.01


SLOW = pytest.mark.slow
KNOWN = [
    *(pytest.param("autoattack", norm, marks=SLOW) for norm in ("Linf", "L2", "L1")),
    pytest.param("autoattack-plus", "Linf", marks=SLOW),
    *itertools.product(["screen"], ["Linf", "L2", "L1"]),
    *itertools.product(["pgd-20", "pgd-5x3"], ["Linf", "L2"]),
]


@pytest.mark.parametrize(("attack", "norm"), KNOWN)
def test_on_a_linear_network_no_figure_is_below_the_exact_one_and_that_of_autoattack_is_it(attack, norm):
    x, y = linear_data()
    radii = exact_radii(Linear(), x, y, norm)
    eps = telling_eps(radii)
    report = judged(plain_classifier(), x.numpy(), y.numpy(), attack=attack, norm=norm, eps=eps)
    compare(report, radii, is_exact=attack.startswith("autoattack"))


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("screen", "L2"),
        ("art:FastGradientMethod", "Linf"),
        ("art:ProjectedGradientDescent", "L2"),
        ("torchattacks:PGD", "Linf"),
        ("torchattacks:PGDL2", "L2"),
    ],
)
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_attacks_of_libraries_are_no_better_than_the_exact_one_either(attack, norm, lam):
    if attack.startswith("torchattacks"):
        pytest.importorskip("torchattacks")
    classifier, (x, _) = affine_classifier(), linear_data(12)
    network = classifier.at(lam).as_module()
    y = network(x).argmax(dim=1)
    radii = exact_radii(network, x, y, norm)
    report = judged(classifier, x.numpy(), y.numpy(), attack=attack, norm=norm, eps=telling_eps(radii), lam=lam)
    compare(report, radii, is_exact=False)


# -- A sample stands only where it was attacked. ----------------------------------------------------------------------


def test_whatever_stands_was_attacked_at_its_own_point_by_every_stage(varied, tmp_path):
    stages = {"one": Logged(tmp_path / "one"), "two": Logged(tmp_path / "two")}
    options = {"lambdas": [0.0, 0.3, 1.0], "shard_size": 7, "verbose": False}
    curve = TradeoffCurve.measure(varied, X, answers(), eps=0.1, attack=stages, **options)
    for report in curve.reports:
        calls = logged(stages[report.attack].log)
        seen = {index for lam, _, ids in calls if lam == report.point.lam for index in ids}
        assert set(np.flatnonzero(report.is_robust).tolist()) <= seen
        assert seen == set(np.flatnonzero(~np.isin(report.broken_by, [WRONG, "carried"])).tolist())
    assert any(report.nb_carried for report in curve.reports)


# -- What is kept. ----------------------------------------------------------------------------------------------------


def two_attacks(log: Path, pause: float = 0.0) -> dict[str, Logged]:
    return {"first": Logged(log, "first", pause=pause), "second": Logged(log, "second", 0.05, pause)}


def curve_plan(log: Path, **options) -> tuple[Evaluation, list[str]]:
    settings = {"eps": 0.1, "attack": two_attacks(log), "norm": "Linf", "points": POINTS, "shard_size": 12, "seed": 0}
    return plan(varied_classifier(), X, answers(), **{**settings, **options})


def judge_one_point(state: Path | None, log: Path, pause: float = 0.0) -> list[RobustnessReport]:
    attack = {"first": Logged(log, "first", pause=pause)}
    return [judged(varied_classifier(), eps=0.1, attack=attack, lam=1.0, shard_size=2, state=state)]


def measure_curve(state: Path | None, log: Path, pause: float = 0.0) -> list[RobustnessReport]:
    options = {"eps": 0.1, "lambdas": [0.0, 0.3, 1.0], "shard_size": 7, "state": state, "verbose": False}
    attack = two_attacks(log, pause)
    return [*TradeoffCurve.measure(varied_classifier(), X, answers(), attack=attack, **options).reports]


def findings(reports: list[RobustnessReport]) -> dict:
    return {(report.point, report.attack): report.broken_by.tolist() for report in reports}


def finished(state: Path) -> set[tuple[int, str]]:
    """Which shards are done with what, by what lies on disk."""
    done = set()
    for path in state.glob("shard-*.npz"):
        with np.load(path) as file:
            done |= {(int(path.stem.split("-")[1]), key) for key in file["keys"].tolist()}
    return done


def run_killed(kind: str, state: Path, log: Path, nb_calls: int, seconds: float) -> None:
    """Start it in a process of its own, and kill that some time after a number of attacks."""
    command = [sys.executable, "-m", "tests.evaluation.killed", kind, str(state), str(log)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while len(logged(log)) < nb_calls and process.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["evaluate", "measure"])
def test_killed_at_a_random_moment_and_started_again_it_finds_the_same_and_attacks_nothing_twice(kind, tmp_path):
    run, shard_size = {"evaluate": (judge_one_point, 2), "measure": (measure_curve, 7)}[kind]
    state, log, draw = tmp_path / "state", tmp_path / "log", random.Random(kind)
    nb_calls, seconds = draw.randint(3, 9), draw.uniform(0, 0.1)
    undisturbed = run(None, tmp_path / "undisturbed")
    run_killed(kind, state, log, nb_calls, seconds)
    done, before = finished(state), len(logged(log))
    assert done
    assert before < len(logged(tmp_path / "undisturbed"))
    assert findings(run(state, log)) == findings(undisturbed)
    again = [(ids[0] // shard_size, f"{lam}x1.0 {name}") for lam, name, ids in logged(log)[before:]]
    assert again
    assert not done & set(again)
    assert len(again) == len(set(again))


def test_stopped_at_every_attack_in_turn_it_goes_on_to_the_same_and_attacks_nothing_twice(tmp_path):
    log = tmp_path / "log"
    evaluation, faults = curve_plan(log)
    undisturbed = findings(evaluation.run(None, nb_workers=1, verbose=False))
    calls = logged(log)
    assert not faults
    assert len(calls) > 8  # of 2 shards, 3 points and 2 engines; some may need no attack
    for nth in range(1, len(calls)):
        log.write_text("")
        log.with_suffix(".stop").write_text(str(nth))
        with pytest.raises(Stopped):
            evaluation.run(tmp_path / str(nth), nb_workers=1, verbose=False)
        log.with_suffix(".stop").unlink()
        assert findings(evaluation.run(tmp_path / str(nth), nb_workers=1, verbose=False)) == undisturbed
        assert logged(log) == [*calls[: nth + 1], *calls[nth:]]  # the one that was stopped is the one done again


def test_a_finished_folder_gives_the_result_without_an_attack(tmp_path):
    evaluation, _ = curve_plan(tmp_path / "log")
    first = evaluation.run(tmp_path / "state", nb_workers=1, verbose=False)
    (tmp_path / "log").unlink()
    second = evaluation.run(tmp_path / "state", nb_workers=1, verbose=False)
    assert not (tmp_path / "log").exists()
    assert findings(second) == findings(first)
    assert [report.seconds for report in second] == [report.seconds for report in first]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "evaluation.json",
        *(f"shard-{number:05d}.npz" for number in range(2)),
    ]


def other_weights():
    classifier = varied_classifier()
    with torch.no_grad():
        classifier.model.network.head.bias[0] += 1e-6
    return classifier


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"eps": 0.06}, "eps"),
        ({"norm": "L2"}, "norm"),
        ({"attack": {"it": PGD(0.05, nb_steps=4)}}, r"attacks\.it\.nb_steps"),
        ({"lam": 0.3}, r"points\.0"),
        ({"shard_size": 8}, "shard_size"),
        ({"x": X + np.float32(1e-3) * (X < 0.5)}, "x"),
        ({"x": X[:-1], "y": answers()[:-1]}, "x was .*; y"),
        ({"y": (answers() + 1) % 5}, "y"),
        ({"classifier": other_weights()}, "weights"),
    ],
)
def test_the_folder_of_another_evaluation_is_refused_with_what_differs(varied, tmp_path, options, name):
    usual = {"classifier": varied, "y": answers(), "lam": 1.0, "state": tmp_path, "attack": {"it": PGD(0.05)}}
    judged(**usual)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds another: {name} was .*\. Name another folder"):
        judged(**{**usual, **options})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_views_of_several_points_do_not_share_a_folder(varied, tmp_path):
    judged(varied.at(1.0), y=answers(), state=tmp_path)
    judged(varied.at(1.0), y=answers(), state=tmp_path)
    with pytest.raises(ValueError, match=r"holds another: points\.0 was"):
        judged(varied.at(0.3), y=answers(), state=tmp_path)


def test_a_view_after_more_training_does_not_go_on(tmp_path):
    classifier = varied_classifier()
    judged(classifier.at(1.0), y=answers(), state=tmp_path)
    with torch.no_grad():
        classifier.model.network.norm.film.output.weight += 0.01
    with pytest.raises(ValueError, match="holds another: weights was"):
        judged(classifier.at(1.0), y=answers(), state=tmp_path)


def test_preprocessing_is_a_setting_too(tmp_path):
    judged(make_classifier(preprocessing=(0.5, 0.25)), y=answers(), state=tmp_path)
    with pytest.raises(ValueError, match=r"holds another: preprocessing\.0\.std was"):
        judged(make_classifier(preprocessing=(0.5, 0.2)), y=answers(), state=tmp_path)


def test_numbers_of_numpy_and_labels_written_otherwise_are_the_same_evaluation(varied, tmp_path):
    judged(varied, state=tmp_path, shard_size=7, seed=3)
    numpy = {"shard_size": np.int64(7), "seed": np.int32(3), "eps": np.float64(0.05), "lam": np.float64(varied.lam)}
    judged(varied, y=np.eye(5)[answers()], state=str(tmp_path), **numpy)


def test_a_damaged_folder_is_named_with_what_to_do(varied, tmp_path):
    state = tmp_path / "state"
    judged(varied, state=state, shard_size=7)
    path = state / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"shard-00001\.npz is damaged\. Delete it"):
        judged(varied, state=state, shard_size=7)
    path.unlink()
    whole = judged(varied, shard_size=7)
    assert judged(varied, state=state, shard_size=7).broken_by.tolist() == whole.broken_by.tolist()
    for content in (b"{", b"[]", b"\xff\xfe"):
        (state / "evaluation.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
            judged(varied, state=state, shard_size=7)


def test_what_is_no_folder_of_an_evaluation_is_not_written_to(varied, tmp_path):
    state, file = tmp_path / "state", tmp_path / "file"
    judged(varied, state=state)
    (state / "evaluation.json").unlink()
    file.write_text("mine")
    for place in (state, file):
        with pytest.raises(ValueError, match="state must be a folder of this evaluation"):
            judged(varied, state=place)
    assert not (state / "evaluation.json").exists()
    assert file.read_text() == "mine"


def test_what_is_refused_leaves_no_folder_behind(varied, tmp_path):
    with pytest.raises(ValueError, match="eps must be"):
        judged(varied, eps=0, state=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- What the result does not depend on. ------------------------------------------------------------------------------


def test_neither_the_order_of_engines_nor_that_of_points_nor_their_company_changes_what_a_stage_draws(tmp_path):
    def found(**options) -> dict:
        evaluation, _ = curve_plan(tmp_path / "log", carries_examples=False, **options)
        return findings(evaluation.run(None, nb_workers=1, verbose=False))

    attacks = two_attacks(tmp_path / "log")
    expected = found()
    assert len({tuple(it) for it in expected.values()}) > 1
    assert found(attack=dict(reversed(attacks.items()))) == expected
    assert found(points=POINTS[::-1]) == expected
    alone = found(attack={"second": attacks["second"]}, points=POINTS[1:2])
    assert alone == {(POINTS[1], "second"): expected[POINTS[1], "second"]}


def test_the_order_of_engines_changes_no_carried_example(tmp_path):
    attacks = two_attacks(tmp_path / "log")
    first, second = (
        findings(curve_plan(tmp_path / "log", attack=dict(it))[0].run(None, nb_workers=1, verbose=False))
        for it in (attacks.items(), reversed(attacks.items()))
    )
    assert first == second


def test_another_seed_draws_otherwise():
    starts = {}

    def attack(network, x, y, *, clip_values=None, generator=None):
        starts.setdefault(seed, []).append(torch.rand(1, generator=generator).item())
        return x

    for seed in (0, 1, 0):
        judged(varied_classifier(), attack=attack, shard_size=12, seed=seed)
    (a, b, *again), others = starts[0], starts[1]
    assert again == [a, b]
    assert len({a, b, *others}) == 4


@pytest.mark.slow
def test_two_workers_find_the_same_as_one(varied, tmp_path):
    for classifier, attack in ((varied, {"it": Logged(tmp_path / "log")}), (varied, "art:FastGradientMethod")):
        options = {"attack": attack, "lam": 0.3, "shard_size": 7, "eps": 0.1, "y": answers()}
        alone = judged(classifier, **options)
        together = judged(classifier, nb_workers=2, state=tmp_path / str(attack)[:5], **options)
        assert together.broken_by.tolist() == alone.broken_by.tolist()
        assert judged(classifier, state=tmp_path / str(attack)[:5], **options).seconds == together.seconds
    view = judged(varied.at(0.3), nb_workers=2, shard_size=7, y=answers())
    assert view.broken_by.tolist() == judged(varied.at(0.3), shard_size=7, y=answers()).broken_by.tolist()


# -- What is judged. --------------------------------------------------------------------------------------------------


def test_a_view_and_the_network_by_itself_are_judged_as_the_classifier_at_that_point(varied):
    expected = judged(varied, lam=0.3)
    view = judged(varied.at(0.3), y=answers())
    network = varied.at(0.3).as_module()
    plain = judged(plain_classifier(network, 5), y=answers())
    assert expected.point == view.point == OperatingPoint(0.3, 1.0)
    assert plain.point is None
    assert 0 < expected.robust < expected.clean < 1
    for report in (view, plain):
        assert report.broken_by.tolist() == expected.broken_by.tolist()


@pytest.mark.parametrize("default", [None, 0.3])
def test_a_lam_is_asked_for_whatever_the_default_is(default):
    classifier = varied_classifier()
    if default is not None:
        classifier.lam = default
    with pytest.raises(ValueError, match=r"lam must be named, since robustness has no default, got None.*lam=1 is"):
        judged(classifier, lam=None)
    with pytest.raises(ValueError, match=r"lam must be named.*width must be one of"):
        judged(classifier, lam=None, width=0.5)


def test_the_only_lam_there_is_needs_no_name(varied):
    model = to_conditional(Residual(), (1.0,))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    assert judged(classifier, y=answers(), lam=None).point == OperatingPoint(1.0)


@pytest.mark.parametrize(
    ("options", "is_large"),
    [
        ({"eps": 8}, True),
        ({"eps": 0.5}, True),
        ({"eps": 8 / 255}, False),
        ({"eps": 128 / 255, "norm": "L2"}, False),
        ({"eps": 128, "norm": "L2"}, True),
        ({"eps": 12, "norm": "L1", "attack": "screen"}, False),  # half of 1 * 36 is 18
        ({"eps": 18, "norm": "L1", "attack": "screen"}, True),
        ({"eps": 0.1, "attack": PGD(8)}, True),
    ],
)
def test_a_radius_in_another_unit_is_refused_unless_it_is_meant(options, is_large):
    classifier = plain_classifier(nb_classes=5)
    given = {"x": X[:2], "y": answers()[:2], "attack": "pgd-1", **options}
    if not is_large:
        judged(classifier, **given)
        return
    with pytest.raises(ValueError, match=r"eps must be below .* half the range of x.* say allow_large_eps=True"):
        judged(classifier, **given)
    if isinstance(given["attack"], str):
        assert judged(classifier, **given, allow_large_eps=True).eps == options["eps"]


def test_a_radius_of_another_unit_is_doubted_once_where_it_was_written():
    x, y = linear_data(4)
    classifier = plain_classifier(Linear(span=255), clip_values=(0, 255))
    with pytest.warns(UserWarning, match=r"eps = 0.2 \(Linf\) is 0.2 of 255 levels.*0.2 in \[0, 1\] is 51") as caught:
        judged(classifier, (255 * x).numpy(), y.numpy(), eps=0.2)
    assert [Path(warning.filename).name for warning in caught] == ["test_evaluate.py"]


class Odd(nn.Module):
    """Answers otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = Linear(), nn.Dropout(1.0)

    def forward(self, x):
        return self.linear(self.dropout(x))


def test_a_plain_network_is_judged_in_evaluation_mode_and_left_as_it_was():
    network, (x, y) = Odd(), linear_data()
    network.linear.eval()
    hooked = []
    handle = network.linear.register_forward_hook(lambda *_: hooked.append(1))
    classifier = plain_classifier(network)
    network.linear.weight.grad = torch.ones_like(network.linear.weight)
    network.linear.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    radii = exact_radii(Linear(), x, y, "Linf")
    eps = telling_eps(radii)
    report = judged(classifier, x.numpy(), y.numpy(), eps=eps, attack=AutoAttack(eps, parts=("apgd-t", "fab-t")))
    compare(report, radii, is_exact=True)
    assert (network.training, network.linear.training, network.dropout.training) == (True, False, True)
    assert [*network.linear._forward_hooks] == [handle.id]
    assert hooked
    assert network.linear.weight.requires_grad
    assert not network.linear.bias.requires_grad
    assert bool((network.linear.weight.grad == 1).all())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_mode_comes_back_also_where_an_attack_fails():
    network, (x, y) = Odd(), linear_data()

    def fail(network, x, y, *, clip_values=None, generator=None):
        raise Stopped

    with pytest.raises(Stopped):
        judged(plain_classifier(network), x.numpy(), y.numpy(), attack=fail)
    assert network.training
    assert network.dropout.training


def test_the_preprocessing_of_a_plain_classifier_is_attacked_too():
    x, y = linear_data()
    radii = exact_radii(Linear(), x, y, "Linf")
    centered = plain_classifier(Linear(low=-0.5 / 0.2, span=1 / 0.2), preprocessing=(0.5, 0.2))
    assert judged(centered, x.numpy(), y.numpy()).clean == 1  # (x - 0.5) / 0.2 is x again
    report = judged(centered, x.numpy(), y.numpy(), eps=telling_eps(radii), attack="screen")
    compare(report, radii, is_exact=False)


def test_whole_numbers_are_judged_in_their_units():
    x, network = (255 * linear_data()[0]).round(), Linear(low=0.0, span=255.0)
    y = network(x).argmax(dim=1)
    classifier = plain_classifier(network, clip_values=(0, 255))
    report = judged(classifier, x.numpy().astype(np.uint8), y.numpy(), eps=255 * 0.007, attack="pgd-20")
    same = judged(plain_classifier(), (x / 255).numpy(), y.numpy(), eps=0.007, attack="pgd-20")
    assert 0 < report.robust < 1
    assert report.broken_by.tolist() == same.broken_by.tolist()


# -- What is said. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "message"), UNRELIABLE)
def test_what_autoattack_warns_of_is_issued_once_and_in_the_report(kind, message):
    network, (x, _) = kind(), linear_data()
    y = network(x).argmax(dim=1).numpy()
    with pytest.warns(AutoAttackWarning, match=message) as issued:
        report = judged(plain_classifier(network), x.numpy(), y, attack="screen", eps=0.01, shard_size=4)
    assert len(issued) == 1
    assert [message in warning for warning in report.warnings] == [True]
    assert f"warning: {report.warnings[0]}" in str(report)


def test_samples_without_a_gradient_are_counted_over_all_shards():
    network, (x, _) = Stairs(), linear_data()
    y = network(x).argmax(dim=1).numpy()
    report = judged(plain_classifier(network), x.numpy(), y, attack="screen", eps=1e-4, shard_size=3)
    assert report.robust == 1
    assert report.warnings[0].startswith(f"there are {len(x)} points with zero gradient")


def test_an_honest_network_gets_no_warning():
    x, y = linear_data()
    assert judged(plain_classifier(), x.numpy(), y.numpy(), attack="screen", eps=0.01).warnings == ()


def test_warnings_are_kept_with_the_shards(tmp_path):
    network, (x, y) = Probabilities(), linear_data()
    options = {"attack": "screen", "eps": 0.01, "shard_size": 4, "state": tmp_path}
    first, second = (judged(plain_classifier(network), x.numpy(), y.numpy(), **options) for _ in "12")
    assert first.warnings == second.warnings != ()


def test_progress_says_which_attack_and_how_many_stand(varied, capsys):
    judged(varied, lam=0.3, verbose=True, attack="pgd-3x2", shard_size=12)
    said = capsys.readouterr().err
    assert "PGD-3 (2 restarts)" in said
    assert "4/4" in said
    assert re.search(r"lam 0\.3, pgd-3 #1 on \d+ of 12", said)
    assert re.search(r"pgd-3 #2: \d+ of 12 stand", said)


# -- What is refused. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps must be a number above 0, got 0"),
        ({"eps": "8/255"}, "eps must be a number"),
        ({"norm": "L0"}, "norm must be one of"),
        ({"attack": "fgsm"}, "attack must be 'autoattack'"),
        ({"attack": ["pgd-1", "pgd-2"]}, "attack must be one, got 2. TradeoffCurve.measure takes several"),
        ({"attack": {}}, "attack must name at least one"),
        ({"attack": "pgd-5", "norm": "L1"}, "norm must be 'Linf' or 'L2' for pgd-5, got 'L1'. For that, use"),
        ({"lam": 3}, "lam must lie in"),
        ({"width": 0.5}, "width must be one of"),
        ({"shard_size": 0}, "shard_size must be a whole number"),
        ({"nb_workers": 1.5}, "nb_workers must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"seed": 1.5}, "seed must be a whole number, at least 0, got 1.5"),
        ({"x": 2 * X}, "x must lie within clip_values"),
        ({"x": X[:0], "y": answers()[:0]}, "x must hold at least one sample"),
        ({"y": np.full(len(X), 9)}, "y must hold class indices"),
    ],
)
def test_what_cannot_be_judged_is_refused(varied, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        judged(varied, **{"y": answers(), **options})


def test_every_fault_is_named_at_once(varied):
    names = ("x", "y", "shard_size", "seed", "attack", "lam", "nb_workers")
    with pytest.raises(ValueError, match=".*".join(f"{name} must" for name in names)):
        judged(varied, 2 * X, np.full(24, 9), shard_size=0, seed=-1, attack="fgsm", lam=3, nb_workers=0)


def test_what_has_no_dials_takes_no_lam(varied):
    for classifier, kind in (
        (plain_classifier(nb_classes=5), "PyTorchClassifier"),
        (varied.at(1.0), "PinnedClassifier"),
    ):
        for dial in ({"lam": 0.3}, {"width": 1.0}):
            with pytest.raises(ValueError, match=f"lam and width must be None for a {kind}: it has no dials"):
                judged(classifier, y=answers(), **dial)


def test_a_plain_classifier_is_judged_in_one_process():
    x, y = linear_data()
    with pytest.raises(ValueError, match="nb_workers must be 1 for a PyTorchClassifier"):
        judged(plain_classifier(), x.numpy(), y.numpy(), nb_workers=2)


def test_what_is_no_classifier_of_art_is_refused():
    for thing in (Linear(), "classifier", None):
        with pytest.raises(TypeError, match="classifier must be a PyTorchClassifier"):
            judged(thing, y=answers())


def test_an_attack_that_leaves_its_ball_ends_the_evaluation(varied):
    def jump(network, x, y, *, clip_values=None, generator=None):
        return (x + 0.2).clamp(0, 1)

    with pytest.raises(RuntimeError, match=r"must stay within eps = 0\.1"):
        judged(varied, attack=jump, eps=0.1)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("pgd-2", "Linf"),
        ("pgd-2", "L2"),
        ("screen", "Linf"),
        ("screen", "L1"),
        ("art:ProjectedGradientDescent", "Linf"),
        ("torchattacks:PGD", "Linf"),
    ],
)
def test_inputs_normalized_in_float32_are_trained_on_and_judged_where_the_range_is_computed_in_float64(attack, norm):
    """Black is (0 - mean) / std either way, and up to 1e-7 apart."""
    mean, std = 0.1307, 0.3081
    images = X.copy()
    images[:, :, 0], images[:, :, 1] = 0, 1
    x = (images - np.float32(mean)) / np.float32(std)
    bounds = ((0 - mean) / std, (1 - mean) / std)
    assert x.min() < np.float32(bounds[0])
    classifier = make_classifier(clip_values=bounds)
    y = classifier.predict(x).argmax(axis=1)
    OATTrainer(classifier, PGD(0.1, nb_steps=1)).fit(x, y, nb_epochs=1, verbose=False)
    report = evaluate(classifier, x, y, eps=0.05, attack=attack, norm=norm, lam=0.0, verbose=False)
    assert len(report.broken_by) == len(x)
