"""Commands that run until they are stopped: SIGTERM and Ctrl-C as an event.

What belongs here: signals. What does not: what a command does about them.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(what_follows: str) -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets; a second Ctrl-C ends the process at once.

    Args:
        what_follows: said when a signal comes: "stopping after the batch at hand".
    """
    stop = threading.Event()

    def heed(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        _thread.start_new_thread(stop.set, ())  # its lock may be held by what was interrupted
        os.write(2, f"{signal.Signals(number).name}: {what_follows}\n".encode())  # print may be what was interrupted

    before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
