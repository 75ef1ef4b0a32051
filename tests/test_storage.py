import itertools
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from art_oat.storage import (
    digest,
    parse_csv,
    read_json,
    read_rows,
    replaced,
    write_bytes,
    write_rows,
    write_whole,
    writing_fault,
)


def test_folders_on_the_way_are_made(tmp_path):
    with write_whole(tmp_path / "a" / "b" / "c.txt") as file:
        file.write("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_what_fails_leaves_an_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "image.png"
    path.write_text("old")

    def fail_after_writing_half():
        with replaced(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing_half()
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]
    assert path.read_text() == "old"


def test_two_writers_of_one_file_are_not_in_each_other_s_way(tmp_path):
    path = tmp_path / "file.txt"
    with replaced(path) as first, replaced(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_when_it_is_old(tmp_path):
    left = [tmp_path / name for name in (".file.12-ab.part.txt", ".file.13-cd.part.txt", ".other.12-ab.part.txt")]
    for path in left:
        path.touch()
    for path in left[::2]:
        os.utime(path, (0, 0))
    write_bytes(tmp_path / "file.txt", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", *(path.name for path in left[1:])}


FULL = """
import resource, sys
from pathlib import Path
from art_oat.storage import write_json, write_rows
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # what a full disk does, with another number
for write in (lambda: write_json(path, list(range(1000))), lambda: write_rows(path, [{"a": "x" * 1000}])):
    try:
        write()
    except OSError as error:
        print(error)
"""


@pytest.mark.slow(seconds=1)
def test_a_full_disk_names_the_file_that_was_to_be_written_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    command = [sys.executable, "-c", FULL, str(path)]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"[Errno 27] cannot write: File too large: {str(path)!r}"] * 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["new", "old", "new/folder/below", "a [b] *"])
def test_where_a_file_can_be_written_there_is_no_fault_and_nothing_is_left(tmp_path, name):
    (tmp_path / "old").write_text("it")
    assert writing_fault(tmp_path / name) is None
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    write_bytes(tmp_path / name, b"")


UNWRITABLE = {
    "folder": "it is a folder",
    "file/below": "Not a directory",
    "file/far/below": "Not a directory",
    "n" * 250: "File name too long",
    "n" * 300 + "/file": "File name too long",
    "nu\0ll": "null",
    "locked/file": "Permission denied",
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_why_a_file_cannot_be_written_is_found_without_writing_it(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    if name == "locked/file" and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    before = sorted(tmp_path.rglob("*"))
    assert UNWRITABLE[name] in writing_fault(tmp_path / name)
    with pytest.raises((OSError, ValueError)):
        write_bytes(tmp_path / name, b"")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_and_its_folder_are_on_the_disk_before_a_write_counts_as_done(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("folder" if is_folder(file) else "file"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("name"), replace(*paths)))
    write_bytes(tmp_path / "it", b"content")
    assert done == ["file", "name", "folder"]


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


WRITERS = {
    "open": lambda path: path.open("wb").close(),
    "tempfile": lambda path: Path(tempfile.mkstemp(dir=path.parent)[1]).replace(path),
    "safetensors": lambda path: safetensors.torch.save_file({"a": torch.ones(2)}, path),
    "a careless one": lambda path: (path.touch(), path.chmod(0o777)),
}


@pytest.mark.parametrize("older", [None, 0o600, 0o666])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_may_be_read_by_whom_the_umask_says_whoever_wrote_it(tmp_path, umask, writer, older):
    path = tmp_path / "it.bin"
    if older is not None:
        path.touch()
        path.chmod(older)
    with replaced(path) as partial:
        WRITERS[writer](partial)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_writes_nothing_leaves_nothing_and_an_older_file(tmp_path):
    (tmp_path / "it").write_text("old")
    with pytest.raises(OSError, match="cannot write: No such file"), replaced(tmp_path / "it"):
        pass
    assert (tmp_path / "it").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_in_one_line_that_names_the_file(tmp_path, content):
    (tmp_path / "it.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"it\.json must hold JSON, but cannot be read") as caught:
        read_json(tmp_path / "it.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a\n" + b"1" * 200_000, b'a,b\n"1'])
def test_what_is_no_table_of_ours_is_refused_in_one_line_that_names_the_file(tmp_path, content):
    (tmp_path / "it.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"it\.csv must be a CSV that to_csv wrote") as caught:
        parse_csv(tmp_path / "it.csv", lambda rows: [float(row["b"]) for row in rows] or rows[0])
    assert "\n" not in str(caught.value)


def test_rows_come_back_as_text_with_their_columns_in_order(tmp_path):
    path = tmp_path / "table.csv"
    write_rows(path, [{"a": 1, "made by": "x"}, {"a": 2, "b": "1,5", "made by": "x"}], last=["made by"])
    assert path.read_bytes() == b'a,b,made by\n1,,x\n2,"1,5",x\n'
    assert read_rows(path)[1] == {"a": "2", "b": "1,5", "made by": "x"}
    assert parse_csv(path, lambda rows: [float(row["a"]) for row in rows]) == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"table.csv must be a CSV that to_csv wrote.*KeyError\('c'\)"):
        parse_csv(path, lambda rows: rows[0]["c"])


SIGNED = [{"a": 1.25, "b": "x"}, {"a": 2.5, "c": "1,5"}]


def test_every_changed_bit_of_a_signed_table_is_noticed_or_changes_nothing_that_is_read(tmp_path):
    path = tmp_path / "it.csv"
    write_rows(path, SIGNED, is_signed=True)
    whole, expected = path.read_bytes(), parse_csv(path, without_signature)
    assert expected == [{"a": "1.25", "b": "x", "c": ""}, {"a": "2.5", "b": "", "c": "1,5"}]
    found = []
    for place, bit in itertools.product(range(len(whole)), range(8)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        found.append(read_or_refused(path))
    assert all(it == expected or "it.csv must be a CSV that to_csv wrote" in it for it in found)
    assert found.count(expected) < 8 * len("sha256,,\n")  # the name of the column, and quotes that are not needed


def read_or_refused(path):
    try:
        return parse_csv(path, without_signature)
    except ValueError as error:
        return str(error)


def without_signature(rows):
    """What a reader takes of a table: the columns that it knows."""
    return [{name: row[name] for name in "abc"} for row in rows]


def test_every_cut_of_a_signed_table_is_noticed_but_that_of_the_last_line_break(tmp_path):
    path = tmp_path / "it.csv"
    write_rows(path, SIGNED, is_signed=True)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"it\.csv must be a CSV"):
            parse_csv(path, without_signature)


def test_a_table_without_its_signature_is_read_as_one_of_somebody_else(tmp_path):
    path = tmp_path / "it.csv"
    write_rows(path, SIGNED)
    assert len(parse_csv(path, without_signature)) == len(SIGNED)


@pytest.mark.parametrize("other", [[2.0, 1.0], [[1.0, 2.0]], [1.0, 2.0, 0.0]])
def test_a_digest_tells_content_shape_and_dtype_apart(other):
    one = np.array([1.0, 2.0])
    assert digest(one) == digest(one.copy()) == digest(np.array([1.0, 9.0, 2.0])[::2])
    assert digest(torch.from_numpy(one)) == digest(torch.from_numpy(one).requires_grad_())
    assert digest(one) != digest(np.array(other))
    assert digest(torch.ones(2)) != digest(torch.ones(2, dtype=torch.bfloat16))


def test_files_are_told_apart_by_what_is_in_them(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest(b"1") != digest(b"2")
