"""Files that are dropped onto the page: from bytes to text, or to a sentence that says why not."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from .strings import Strings

MAX_BYTES = 4 * 2**20  # of a file; some 300 pages of PDF, and more text than a context of 1M tokens holds
MAX_CHARACTERS = 4 * 2**20  # of its text, which a PDF packs

# What no text has: the control characters but tab, line feed, form feed and carriage return.
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class DocumentError(ValueError):
    """A file that is not read; its text is a sentence for the user."""


def take_file(path: str, strings: Strings) -> tuple[str, str]:
    """Name and text of an uploaded file, which is deleted.

    Raises:
        DocumentError: it is too large, no text, or gone.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise DocumentError(
                strings["file_too_large"].format(
                    name=file.name, size=f"{size / 2**20:.1f}", limit=MAX_BYTES // 2**20
                )
            )
        return file.name, read_document(file.name, file.read_bytes(), strings)
    except OSError:
        raise DocumentError(strings["file_gone"].format(name=file.name)) from None
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def read_document(name: str, data: bytes, strings: Strings) -> str:
    """The text of a file. Its bytes say what it is, not its name.

    Raises:
        DocumentError: there is no text in it.
    """
    text = _read_pdf(name, data, strings) if data.startswith(b"%PDF-") else _decode(data)
    if text is None:
        raise DocumentError(strings["file_no_text"].format(name=name))
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise DocumentError(strings["file_empty"].format(name=name))
    return text


def _decode(data: bytes) -> str | None:
    """Text in UTF-8, UTF-16 with a byte order mark, or GB 18030, which old Chinese files have; else None."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "gb18030"):
        with contextlib.suppress(UnicodeError):
            text = data.decode(encoding)
            if not _CONTROL.search(text):
                return text
    return None


def _read_pdf(name: str, data: bytes, strings: Strings) -> str:
    try:
        import pypdf
    except ImportError:
        raise DocumentError(strings["file_no_pdf"].format(name=name)) from None
    pages: list[str] = []
    n_characters = 0
    try:
        for page in pypdf.PdfReader(io.BytesIO(data)).pages:
            pages.append(page.extract_text())
            n_characters += len(pages[-1])
            if n_characters > MAX_CHARACTERS:
                break
    # Damaged files make pypdf raise errors of every kind.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DocumentError(strings["file_bad_pdf"].format(name=name, error=reason)) from None
    # Fonts without a table of characters give half pairs of surrogates, which no prompt may have.
    return "\n\n".join(pages)[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
