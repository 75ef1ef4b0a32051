import pytest

from art_oat.launch import check_alone, is_follower, nb_launched


@pytest.mark.parametrize(
    ("told", "nb", "follows"),
    [
        ({}, 1, False),
        ({"WORLD_SIZE": "4"}, 1, False),  # told by something else, without a number of its own
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1, False),
        ({"RANK": "0", "WORLD_SIZE": "4"}, 4, False),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 4, True),
    ],
)
def test_a_process_knows_from_its_launcher_how_many_there_are_and_whether_it_follows(told, nb, follows, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (nb_launched(), is_follower()) == (nb, follows)
    if nb == 1:
        check_alone("art-oat evaluate")
    else:
        with pytest.raises(RuntimeError, match="art-oat evaluate must be started once, without torchrun"):
            check_alone("art-oat evaluate")
