import threading
import time

import pytest
import torch

from runtime.checkpoint import Run, Writer, snapshot
from runtime.distributed import Ranks

CPU = torch.device("cpu")


def test_work_is_done_in_order_one_after_the_other():
    seen, running, writer = [], threading.Lock(), Writer(CPU)

    def work(i):
        assert running.acquire(blocking=False)
        time.sleep(0.02)
        seen.append(i)
        running.release()

    for i in range(5):
        writer.submit(work, i)
    assert len(seen) < 5  # nobody waited
    writer.check(wait=True)
    assert seen == list(range(5))


def fail():
    raise OSError("no space left")


def test_an_error_is_raised_by_the_next_check():
    writer = Writer(CPU)
    job = writer.submit(fail)
    while not job.done():
        time.sleep(0.001)
    with pytest.raises(OSError, match="no space left"):
        writer.check()
    writer.check()  # once is enough


def test_an_error_is_raised_at_the_end_unless_another_is_on_its_way(small):
    with pytest.raises(OSError, match="no space left"), Run(small("a"), Ranks()) as run:
        run.writer.submit(fail)
    with pytest.raises(ValueError, match="the loss"), Run(small("b"), Ranks()) as run:
        run.writer.submit(fail)
        raise ValueError("the loss")


def test_a_snapshot_does_not_follow_what_it_was_taken_from():
    state = {"a": torch.zeros(2), "b": [{"c": torch.ones(1)}, 3]}
    kept = snapshot(state)
    state["a"] += 1
    state["b"][0]["c"] += 1
    assert kept["a"].tolist() == [0, 0] and kept["b"][0]["c"].tolist() == [1] and kept["b"][1] == 3
