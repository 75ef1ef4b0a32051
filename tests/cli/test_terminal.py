import numpy as np

from tests.cli.subjects import call


def test_what_steers_a_terminal_is_not_sent_to_it_from_a_file(tmp_path):
    (tmp_path / "run.json").write_text('"\\u001b[2J"')
    np.savez(tmp_path / "images.npz", **{"\x1b[2J": np.zeros(3)})
    images = str(tmp_path / "images.npz")
    output = (
        call("evaluate", str(tmp_path)).output + call("train", "--data", images, "--out", str(tmp_path / "run")).output
    )
    assert r"\x1b[2J" in output
    assert "\x1b[2J" not in output
