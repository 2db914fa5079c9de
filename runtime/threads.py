"""Work in several threads whose results come in order, and which ends early when its reader does."""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def ordered(work: Callable, jobs: Iterable, n_threads: int | None, ahead: int) -> Iterator[Iterator]:
    """The results of work(job), in order, while the threads are at most `ahead` jobs in front; None: as many as usual.

    An error of a job comes in its place, and ends the rest. Leaving the block gives up the jobs that have not begun,
    and waits for those at work: none is cut in the middle. What may hang is bounded by `run_main`.
    """
    pool = ThreadPoolExecutor(n_threads)

    def results() -> Iterator:
        submitted = (pool.submit(work, job) for job in jobs)
        waiting = deque(itertools.islice(submitted, ahead))
        while waiting:
            future = waiting.popleft()
            waiting.extend(itertools.islice(submitted, 1))
            yield future.result()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
