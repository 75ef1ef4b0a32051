import pytest
import torch

from art_oat.experiment import demo
from tests.cli.subjects import DIGITS, call, said


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    for name in ("RECIPE", "SLIM_RECIPE"):
        monkeypatch.setattr(demo, name, getattr(demo, name).changed(nb_train=100))


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call(*DIGITS, "--device", "gpu", "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "--device must be 'cpu' or 'auto' where torch sees no GPU, got 'gpu'" in said(result)
    assert not (tmp_path / "run").exists()
