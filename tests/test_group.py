import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from art_oat.group import ALONE, Group, in_group
from tests.processes import in_processes


@pytest.mark.parametrize(("nb", "size"), [(10, 3), (2, 4), (0, 2)])
def test_shares_are_a_partition_as_even_as_can_be(nb, size):
    shares = [range(nb)[Group(rank, size).share(nb)] for rank in range(size)]
    assert sorted(number for share in shares for number in share) == list(range(nb))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def exchanged() -> list[object]:
    group = Group.here()
    own = list(range(7))[group.share(7)]
    sums = group.sums([1.0, group.rank])
    spread = torch.full((3,), float(group.rank))
    group.spread([spread])
    return [group.gathered(own), sums, spread.tolist(), group.first(lambda: group.rank)]


@pytest.mark.parametrize("nb", [2, 3])
def test_what_is_exchanged_is_the_same_in_all_and_in_order(nb, tmp_path):
    expected = [list(range(7)), [float(nb), sum(range(nb))], [0.0] * 3, 0]
    assert in_processes(nb, tmp_path, exchanged) == [expected] * nb


def test_a_process_by_itself_exchanges_nothing():
    assert (ALONE.gathered([3, 4]), ALONE.sums([2.5]), ALONE.first(lambda: 7)) == ([3, 4], [2.5], 7)
    with in_group("cpu") as group:
        assert group == ALONE
        assert not distributed.is_initialized()


ENDING = """
import sys
from contextlib import contextmanager
from pathlib import Path
import torch
from torch import distributed
from art_oat.group import in_group

@contextmanager
def own_group():
    distributed.init_process_group("gloo")
    yield
    distributed.barrier()
    distributed.destroy_process_group()

with own_group() if sys.argv[1] == "own" else in_group("cpu"):
    weight = torch.ones(1, requires_grad=True)
    torch.optim.SGD([weight], 0.1).step()  # imports what holds a group that is there by then
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
print([name for name in threads if "gloo" in name])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are found by what Linux says of them")
@pytest.mark.parametrize("whose", ["ours", "own"])
def test_after_its_work_no_thread_of_a_group_is_left_to_abort_the_end_of_a_process(whose, tmp_path):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, str(script), whose], capture_output=True, text=True, check=True)
    assert done.stdout.count("[]") == 2, done.stdout
