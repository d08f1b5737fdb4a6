"""News of replies for event loops."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from contextlib import suppress

from . import _C


class Subscription:
    """An event that is set whenever its reply has news, for as long as this object lives."""

    def __init__(self, source: Wakeups, generation: _C.Generation) -> None:
        self.event = asyncio.Event()
        self._source = source
        self._number = source.subscribe(generation, self.event)

    def __del__(self) -> None:
        self._source.forget(self._number)


class Wakeups:
    """One thread that sets the events of all replies that event loops wait for.

    The engine leaves a reply's number in a mailbox, and needs no interpreter lock for it; this thread passes
    the news on to the loop that the reply belongs to.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._mailbox = _C.Mailbox()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        threading.Thread(target=self._pass_on, name="chatglm_cpp wakeups", daemon=True).start()

    def subscribe(self, generation: _C.Generation, event: asyncio.Event) -> int:
        """Sets `event`, of the running loop, whenever there is news; gives a number to `forget`."""
        number = next(self._numbers)
        self._waiting[number] = (asyncio.get_running_loop(), event)
        generation.notify(self._mailbox, number)
        return number

    def forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def is_of_this_process(self) -> bool:
        return self._process == os.getpid()

    def _pass_on(self) -> None:
        with suppress(_C.Error):  # Python shuts down
            while numbers := self._mailbox.wait():
                for number in numbers:
                    if entry := self._waiting.get(number):
                        loop, event = entry
                        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                            loop.call_soon_threadsafe(event.set)


_lock = threading.Lock()
_wakeups: Wakeups | None = None


def subscribe(generation: _C.Generation) -> Subscription:
    """News of a reply for the running loop. The thread is started when it is first needed."""
    global _wakeups
    with _lock:
        if _wakeups is None or not _wakeups.is_of_this_process():
            _wakeups = Wakeups()
        source = _wakeups
    return Subscription(source, generation)


if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock at that moment; in the child nobody would ever release it.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
