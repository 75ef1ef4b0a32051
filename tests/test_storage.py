import pytest

from art_oat.storage import replaced, write_whole


def test_a_file_appears_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with write_whole(path) as file:
        file.write("text")
        assert not path.exists()
    assert path.read_text() == "text"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")

    def fail() -> None:
        with replaced(path) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
