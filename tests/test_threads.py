import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from art_oat.threads import Places


@pytest.mark.parametrize("nb_places", [1, 2])
def test_no_more_threads_compute_at_once_than_there_are_places(nb_places):
    places, inside, most, lock = Places(nb_places, patience=60), 0, 0, threading.Lock()

    def compute(number):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.001)
        with lock:
            inside -= 1
        return number**2

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: places.compute(lambda: compute(number)), range(40)))
    assert answers == [number**2 for number in range(40)]
    assert most == nb_places


def test_a_computation_within_another_goes_on_though_there_is_no_place():
    places = Places(1, patience=0.01)
    assert places.compute(lambda: places.compute(lambda: 3)) == 3


def test_a_place_is_free_again_after_an_error():
    places = Places(1, patience=60)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            places.compute(lambda: 1 // 0)
    assert places.compute(lambda: 3) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no copies of a process here")
def test_a_copy_of_a_process_has_all_places_though_a_thread_held_one_when_it_was_made():
    places, held, is_over = Places(1, patience=60), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        is_over.wait()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(places.compute, hold)
        held.wait()
        if not (child := os.fork()):
            os._exit(places.compute(lambda: 3))
        _, status = os.waitpid(child, 0)
        is_over.set()
    assert os.waitstatus_to_exitcode(status) == 3
