import json

from tests.cli.subjects import call, said


def test_a_pretrained_network_is_shown_by_its_name_and_as_json():
    shown = said(call("info", "digits"))
    for part in (
        "small-16-32-64",
        "Lams: 0 0.02 0.1 0.3 1",
        "textured-digits",
        "pgd-3 at eps 0.125 (Linf)",
        "Accuracy",
    ):
        assert part in shown
    told = json.loads(call("info", "digits", "--json").stdout)
    assert told["lambdas"] == [0.0, 0.02, 0.1, 0.3, 1.0]
    assert [point["lam"] for point in told["points"]] == told["lambdas"]


def test_a_folder_without_a_model_is_refused_with_the_names_there_are(tmp_path):
    for folder, expected in ((tmp_path, "model.safetensors cannot be found"), (tmp_path / "no", "'digits'")):
        result = call("info", str(folder))
        assert result.exit_code == 2
        assert expected in said(result)
