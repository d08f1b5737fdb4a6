"""What the exceptions of downloading libraries say, whichever HTTP library is below them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from http import HTTPStatus

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, the latest first."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__


def reason(error: BaseException) -> str:
    """The first cause, on one line."""
    first = list(chain(error))[-1]
    text = getattr(first, "strerror", None) or str(first).strip() or type(first).__name__
    return text.splitlines()[0][:200].rstrip(".")


def http_status(error: BaseException) -> int | None:
    """The status of the answer that made the error."""
    for step in chain(error):
        for holder in (getattr(step, "response", None), step):
            status = getattr(holder, "status_code", None)
            if isinstance(status, int):
                return status
    return None


def describe_status(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def is_disk_full(error: BaseException) -> bool:
    return any(isinstance(step, OSError) and step.errno in _FULL for step in chain(error))


def unusable_file(error: BaseException) -> OSError | None:
    """The error of a file on this machine, such as a cache that cannot be written."""
    for step in chain(error):
        if isinstance(step, OSError) and isinstance(step.filename, str) and step.errno is not None:
            return step
    return None
