import threading
import time

import pytest
import torch

from runtime.checkpoint import Background, snapshot

CPU = torch.device("cpu")


def test_work_is_done_in_order_one_after_the_other_and_before_the_block_ends():
    seen, running = [], threading.Lock()

    def work(i):
        assert running.acquire(blocking=False)
        time.sleep(0.02)
        seen.append(i)
        running.release()

    with Background(CPU) as background:
        for i in range(5):
            background.submit(work, i)
        assert len(seen) < 5  # nobody waited
    assert seen == list(range(5))


def test_an_error_is_raised_by_the_next_check():
    def fail():
        raise OSError("no space left")

    with Background(CPU) as background:
        job = background.submit(fail)
        while not job.done():
            time.sleep(0.001)
        with pytest.raises(OSError, match="no space left"):
            background.check()
        background.check()  # once is enough
    with pytest.raises(OSError, match="no space left"), Background(CPU) as background:
        background.submit(fail)


def test_the_first_error_is_the_one_that_is_told():
    def fail():
        raise OSError("no space left")

    with pytest.raises(ValueError, match="the loss"), Background(CPU) as background:
        background.submit(fail)
        raise ValueError("the loss")


def test_a_snapshot_does_not_follow_what_it_was_taken_from():
    state = {"a": torch.zeros(2), "b": [{"c": torch.ones(1)}, 3]}
    kept = snapshot(state)
    state["a"] += 1
    state["b"][0]["c"] += 1
    assert kept["a"].tolist() == [0, 0] and kept["b"][0]["c"].tolist() == [1] and kept["b"][1] == 3
