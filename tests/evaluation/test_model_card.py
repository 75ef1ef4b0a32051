import json
import math
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

import art_oat
from art_oat import TradeoffCurve, load_model, save_model
from art_oat.evaluation import CardFacts, write_card
from art_oat.frontier import MeasuredPoint
from art_oat.model_io import Architecture
from art_oat.models import SmallCNN
from art_oat.storage import digest
from tests.networks import WIDTHS, images, shaken

ARCHITECTURE = Architecture("SmallCNN", {"channels": [4, 6], "nb_classes": 3})
POINTS = tuple(
    MeasuredPoint(
        lam, width, 0.9 - lam / 10, 0.3 + lam / 3, 10_000, 1000, {"pgd-20": 0.8, "autoattack": 0.3 + lam / 3}, macs=7
    )
    for lam in (0.0, 1e-5, 1.0)
    for width in (0.5, 1.0)
)
CURVE = TradeoffCurve(POINTS, eps=8 / 255)


@pytest.fixture
def folder(tmp_path):
    model = shaken(SmallCNN(channels=(4, 6), nb_classes=3), torch.float32, widths=WIDTHS)
    save_model(model, tmp_path / "it", ARCHITECTURE)
    return tmp_path / "it"


def card(folder: Path, curve: TradeoffCurve = CURVE, **facts) -> huggingface_hub.ModelCard:
    """Write a card, and read it as the Hub does."""
    return huggingface_hub.ModelCard.load(write_card(folder, curve, CardFacts(**{"data": "cifar10", **facts})))


def test_the_hub_reads_every_accuracy_with_its_point_attack_and_standard_error(folder):
    found = card(folder).data
    assert found.model_name == "it"
    assert {result.dataset_type for result in found.eval_results} == {"uoft-cs/cifar10"}
    assert {result.task_type for result in found.eval_results} == {found.pipeline_tag} == {"image-classification"}
    clean, robust = found.eval_results[::2], found.eval_results[1::2]
    for point, own, attacked in zip(POINTS, clean, robust, strict=True):
        dials = {"lam": point.lam, "width": point.width}
        assert own.metric_type == "accuracy"
        assert own.metric_value == pytest.approx(point.clean, abs=5e-5)
        error = math.sqrt(point.clean * (1 - point.clean) / 10_000)
        assert own.metric_args == pytest.approx(dials | {"nb_images": 10_000, "standard_error": error}, abs=5e-5)
        assert attacked.metric_value == pytest.approx(point.robust, abs=5e-5)
        assert attacked.metric_args["attack"] == "PGD-20, AutoAttack"
        assert (attacked.metric_args["norm"], attacked.metric_args["eps"]) == ("Linf", "8/255")
        assert attacked.metric_args.items() >= (dials | {"nb_images": 1000}).items()


@pytest.mark.parametrize(("data", "on_the_hub"), [("cifar10", ["uoft-cs/cifar10"]), ("digits", None)])
def test_data_sets_of_the_hub_are_named_as_there_and_others_only_in_the_results(folder, data, on_the_hub):
    found = card(folder, data=data).data
    assert found.datasets == on_the_hub
    assert {result.dataset_name for result in found.eval_results} == {data}


def test_a_license_is_named_where_one_is_given_and_none_elsewhere(folder):
    assert "license" not in card(folder).data.to_dict()
    assert card(folder, license="mit").data.license == "mit"


@pytest.mark.parametrize(
    "name", ["no", "1e3", "a: b # c", "'\"\\", "- x", "é 漢 \N{GRINNING FACE}", "a\tb", "---", "{}"]
)
def test_whatever_a_model_is_called_is_read_as_it_is(folder, name):
    assert card(folder, name=name).data.model_name == name


def test_the_metadata_comes_through_the_library_of_the_hub_unchanged(folder):
    found = card(folder)
    again = huggingface_hub.ModelCard(f"---\n{found.data.to_yaml()}\n---\n{found.text}")
    assert again.data.to_dict() == found.data.to_dict()


def test_the_table_has_every_point_with_its_accuracies_in_percent_and_their_standard_errors(folder):
    rows = [line.strip("| ").split(" | ") for line in card(folder).text.splitlines() if line.startswith("| ")]
    heads = "lam|width|clean (10000)|PGD-20 (1000)|AutoAttack (1000)|robust, worst case (1000)|MACs"
    assert rows[0] == heads.split("|")
    for point, row in zip(POINTS, rows[2:] if set(rows[1][0]) <= set("-: |") else rows[1:], strict=True):
        assert [float(it) for it in row[:2]] == pytest.approx([point.lam, point.width])
        clean, robust = ([float(it) for it in row[place].split(" ± ")] for place in (2, 5))
        for (share, error), actual, count in ((clean, point.clean, 10_000), (robust, point.robust, 1000)):
            expected = [100 * actual, 100 * math.sqrt(actual * (1 - actual) / count)]
            assert [share, error] == pytest.approx(expected, abs=0.051)


def test_warnings_of_an_attack_are_passed_on(folder):
    warned = replace(POINTS[0], warnings=("gradients are zero",))
    assert "At lam 0, width 0.5: gradients are zero" in card(folder, TradeoffCurve((warned,), eps=0.1)).text


@pytest.mark.parametrize("architecture", [None, ARCHITECTURE])
def test_the_lines_under_use_load_the_model_and_give_its_answers(folder, architecture):
    model = load_model(folder)
    save_model(model, folder, architecture)
    (code,) = re.findall(r"```python\n(.*?)```", card(folder).text, re.DOTALL)
    names = {"images": images(dtype=torch.float32), "network": SmallCNN(channels=(4, 6), nb_classes=3)}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    assert torch.equal(names["logits"], model(names["images"], lam=0.3))
    torch.testing.assert_close(names["network"](names["images"]), names["logits"])


def test_a_network_that_needs_trust_says_so_and_its_shape_and_range_are_told(folder):
    description = json.loads((folder / "config.json").read_text())
    task = {"in_channels": 3, "nb_classes": 3, "image_size": [32, 48]}
    description["architecture"] = {"name": "network_named", "arguments": {"name": "package.module:factory", **task}}
    (folder / "config.json").write_text(json.dumps(description))
    text = card(folder, clip_values=(-1, 1)).text
    assert 'load_model("path/to/this/folder", trusts_network=True)' in text
    assert "[N, 3, 32, 48], from -1 to 1" in text


def test_it_holds_the_digest_of_the_weights_and_the_recipe_without_its_paths(folder):
    recipe = {"data": "/home/ann/set.npz", "data_folder": "/home/ann", "pretrained": "/home/ann/it.pt", "seed": 3}
    found = card(folder, data="/home/ann/set.npz", recipe=recipe, version="1.2")
    assert digest(folder / "model.safetensors") in found.text
    assert '"data": "set.npz"' in found.text
    assert '"seed": 3' in found.text
    assert "art_oat 1.2" in found.text
    assert "ann" not in str(found).replace("channels", "")


def test_the_same_model_and_curve_give_the_same_bytes_and_a_card_is_refreshed(folder):
    contents = {write_card(folder, CURVE, CardFacts(data="digits")).read_bytes() for _ in range(2)}
    assert len(contents) == 1
    assert card(folder, data="mnist").data.eval_results[0].dataset_name == "mnist"


@pytest.mark.parametrize(
    "edit", [lambda text: text + "more", lambda _: "mine", lambda text: text.replace("90.0", "99.0")]
)
def test_what_somebody_wrote_or_edited_is_not_lost_unless_he_says_so(folder, edit):
    path = write_card(folder, CURVE, CardFacts(data="digits"))
    path.write_text(edited := edit(path.read_text()))
    with pytest.raises(FileExistsError, match=r"README\.md must not be lost: it was changed"):
        write_card(folder, CURVE, CardFacts(data="digits"))
    assert path.read_text() == edited
    write_card(folder, CURVE, CardFacts(data="digits"), overwrites=True)
    assert path.read_text() != edited


def test_a_file_that_is_no_text_is_not_ours(folder):
    (folder / "README.md").write_bytes(b"\xff\x00")
    with pytest.raises(FileExistsError):
        write_card(folder, CURVE, CardFacts(data="digits"))


@pytest.mark.parametrize("wrong", [{"data": 3}, {"data": "digits", "license": ["mit"]}, {"data": "digits", "name": 1}])
def test_facts_of_another_kind_are_refused(wrong):
    with pytest.raises(TypeError, match="must be text, got"):
        CardFacts(**wrong)


def test_what_is_no_curve_or_no_model_is_refused(folder, tmp_path):
    with pytest.raises(TypeError, match="curve must be a TradeoffCurve, got"):
        write_card(folder, np.ones(2), CardFacts(data="digits"))
    with pytest.raises(FileNotFoundError):
        write_card(tmp_path, CURVE, CardFacts(data="digits"))
    assert art_oat.load_model(folder).widths == WIDTHS
