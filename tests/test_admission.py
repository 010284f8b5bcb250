"""The gate in front of the network: few run, some wait, the others are refused at once."""

import threading
import time

import pytest

from handwriting.admission import Gate, cores
from handwriting.protocols import Refused


def test_more_than_run_and_wait_are_refused_at_once_and_let_in_again_later():
    gate, leave, entered = Gate(running=1, waiting=2), threading.Event(), threading.Semaphore(0)

    def request():
        with gate:
            entered.release()
            leave.wait(5)

    threads = [threading.Thread(target=request) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=5)
    while gate.inside < 3:
        time.sleep(0.001)
    with pytest.raises(Refused, match="3 requests are waiting already") as refused:
        gate.__enter__()
    assert refused.value.status == 503 and not entered.acquire(blocking=False)  # one runs
    leave.set()
    for thread in threads:
        thread.join()
    with gate:
        assert gate.inside == 1


def test_an_error_inside_gives_the_turn_back():
    gate = Gate(running=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ValueError), gate:
            raise ValueError
    assert gate.inside == 0


@pytest.mark.parametrize("limits, found", [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_the_cores_of_a_pod_are_its_share(tmp_path, limits, found):
    (tmp_path / "cpu.max").write_text(limits)
    assert cores(tmp_path / "cpu.max") == (found or cores(tmp_path / "nothing"))
