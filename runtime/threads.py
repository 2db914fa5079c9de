"""Work in several threads whose results come in order, and which ends early when its reader does."""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from runtime.files import is_full
from utils import DataError


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


def attempt(work: Callable, *more: object) -> Callable:
    """work(job, *more) of a job, which returns the error where a file cannot be used or written.

    Raises it where the disk is full: no other output fits either.
    """

    def tried(job):
        try:
            return work(job, *more)
        except (DataError, OSError) as error:
            if is_full(error):
                raise
            return error

    return tried


def sound(results: Iterable, failures: list[str]) -> Iterator:
    """The results but for the errors, whose sentences go to `failures`."""
    for result in results:
        if isinstance(result, Exception):
            failures.append(str(result))
        else:
            yield result
