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


def test_a_record_that_was_changed_remembers_nothing_and_says_so_until_it_is_written_anew(tmp_path):
    path = tmp_path / "run.json"
    Ledger(path).keep("it", {"eps": 0.2})
    assert not Ledger(path).fault
    path.write_text(path.read_text().replace("0.2", "0.3"))
    ledger = Ledger(path)
    assert ledger.settings("it") == {}
    assert f"{path} is damaged, or was changed" in ledger.fault
    ledger.keep("it", {"eps": 0.4})
    assert not ledger.fault
    assert Ledger(path).settings("it") == {"eps": 0.4}
    assert not Ledger(tmp_path / "none").fault
