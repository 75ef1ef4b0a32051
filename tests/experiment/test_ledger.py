import pytest

from art_oat.experiment.ledger import Ledger


def test_it_holds_what_was_made_until_the_settings_or_the_files_change(tmp_path):
    path, result = tmp_path / "run.json", tmp_path / "result"
    result.write_text("1")
    Ledger(path).keep("it", {"seed": 1}, [result])
    assert Ledger(path).holds("it", {"seed": 1}, [result])
    assert not Ledger(path).holds("it", {"seed": 2}, [result])
    result.write_text("2")
    assert not Ledger(path).holds("it", {"seed": 1}, [result])
    result.unlink()
    assert not Ledger(path).holds("it", {"seed": 1}, [result])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"it": 3}'])
def test_a_damaged_file_remembers_nothing(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert Ledger(path).settings("it") == {}
    assert not Ledger(path).holds("it", {"seed": 1})
