"""The gate in front of the network: few run, some wait, the others are refused at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from handwriting.admission import Gate
from handwriting.protocols import Refused


def test_more_than_run_and_wait_are_refused_at_once_and_let_in_again_later():
    gate, leave, entered = Gate(running=1, waiting=2), threading.Event(), threading.Semaphore(0)

    def work(item):
        entered.release()
        leave.wait(5)

    threads = [threading.Thread(target=gate.map, args=[work, [1]]) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=5)
    while gate.inside < 3:
        time.sleep(0.001)
    with pytest.raises(Refused, match="3 requests are waiting already") as refused:
        gate.map(work, [1])
    assert refused.value.status == 503 and not entered.acquire(blocking=False)  # one runs
    leave.set()
    for thread in threads:
        thread.join()
    assert gate.map(lambda item: gate.inside, [1]) == [1] and gate.inside == 0


def test_an_error_inside_gives_the_turn_back():
    gate = Gate(running=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ValueError):
            gate.map(int, ["1", "x"])
    assert gate.inside == 0


def test_all_is_read_in_the_few_threads_of_the_gate():
    gate = Gate(running=2, waiting=20)
    with ThreadPoolExecutor(20) as pool:
        names = pool.map(lambda number: gate.map(lambda item: threading.current_thread().name, [1]), range(200))
    assert {name for [name] in names} <= {"reading_0", "reading_1"}


def test_a_request_of_many_pictures_lets_others_in_between():
    gate, done = Gate(running=1, waiting=9), []

    def work(item):
        time.sleep(0.005)
        done.append(item)

    many = threading.Thread(target=gate.map, args=[work, range(100)])
    many.start()
    while not done:
        time.sleep(0.001)
    gate.map(work, ["one"])
    many.join()
    assert len(done) == 101 and done.index("one") < 50
