import tracemalloc

import pytest
import torch

from art_oat.training.resume_file import ResumeFile
from tests.conftest import make_classifier


def test_a_file_is_written_whole_and_read_by_the_same_settings_alone(tmp_path):
    file, classifier = ResumeFile(tmp_path / "state.pt"), make_classifier()
    assert file.read({"scheduler": None, "nb_epochs": 1}, classifier) is None
    file.write({"scheduler": None, "nb_epochs": 1}, {"weights": torch.ones(2)})
    with pytest.raises(ValueError, match="nb_epochs was 1, is 2"):
        file.read({"scheduler": None, "nb_epochs": 2}, classifier)
    with pytest.raises(ValueError, match=r"but in .*state\.pt: nb_before must be what fit wrote\. nb_done must"):
        file.read({"scheduler": None, "nb_epochs": 1}, classifier)


def test_what_is_written_is_in_memory_once(tmp_path):
    content = {"weights": torch.zeros(2_000_000)}
    tracemalloc.start()
    try:
        ResumeFile(tmp_path / "state.pt").write({}, content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.5 * 8e6
