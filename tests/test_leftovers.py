import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from art_oat import leftovers
from art_oat.leftovers import beside, remove_folders, remove_leftovers_of_the_dead
from art_oat.lock import locked


@pytest.fixture(scope="module")
def dead():
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def left_by(pid: int, path: Path) -> Path:
    """Leave a temporary file as a process would."""
    left = path.with_name(beside(path).name.replace(f"-{os.getpid()}-", f"-{pid}-"))
    left.touch()
    return left


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody can ask whether a process lives")
@pytest.mark.parametrize("name", ["model.safetensors", "run", ".model.next.json", "a-1.csv"])
def test_what_a_dead_process_was_writing_goes_and_what_a_living_one_writes_stays(tmp_path, dead, name, monkeypatch):
    own, gone = left_by(os.getpid(), tmp_path / name), left_by(dead, tmp_path / name)
    monkeypatch.setattr(leftovers.platform, "node", lambda: "another machine")
    elsewhere = left_by(dead, tmp_path / name)
    monkeypatch.undo()
    remove_leftovers_of_the_dead(tmp_path)
    assert not gone.exists()
    assert own.exists()
    assert elsewhere.exists()  # whether its process lives cannot be known here


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody can ask whether a process lives")
def test_who_takes_a_folder_clears_what_the_dead_left_there(tmp_path, dead):
    left = left_by(dead, tmp_path / "model.safetensors")
    with locked(tmp_path):
        assert not left.exists()


def test_two_temporary_paths_of_one_file_are_never_the_same():
    names = {beside(Path("a.txt")).name for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(rf"\.a\.[0-9a-f]{{8}}-{os.getpid()}-[0-9a-f]{{8}}\.part\.txt", name) for name in names)


def test_half_a_removed_folder_passes_for_none_and_goes_the_next_time(tmp_path, monkeypatch):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "a").touch()

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(leftovers.shutil, "rmtree", lambda path, **options: path.exists() and die())
        with pytest.raises(KeyboardInterrupt):
            remove_folders([folder])
    assert not folder.exists()
    folder.mkdir()  # made anew meanwhile
    remove_folders([folder, tmp_path / "none"])
    assert not list(tmp_path.iterdir())


def test_half_a_removed_folder_goes_though_none_of_its_name_is_removed_again(tmp_path):
    (tmp_path / ".evaluation-1.gone" / "a").mkdir(parents=True)
    remove_leftovers_of_the_dead(tmp_path)
    assert not list(tmp_path.iterdir())
