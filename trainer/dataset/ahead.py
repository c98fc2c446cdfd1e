"""Work that runs a little ahead of the one who needs it."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 0, depth: int = 0
) -> Iterator[Result]:
    """`map(function, items)` in order, on `workers` threads, at most `depth` results before they are taken.

    Pillow, hashing and file reads let go of the interpreter lock, so threads are enough. Unlike
    `Executor.map`, memory stays bounded by `depth` however many items there are. When `items` raises, the results of
    those before come first.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    depth = max(depth or 4 * workers, 1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    waiting: deque = deque()
    try:
        source, failure = iter(items), None
        while True:
            try:
                waiting.append(pool.submit(function, next(source)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        # A consumer that stops early must not wait for work that nobody will take.
        pool.shutdown(wait=True, cancel_futures=True)
