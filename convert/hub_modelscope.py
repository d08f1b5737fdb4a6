"""Checkpoints from ModelScope, through the modelscope library and its cache."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .hub import HubError, MissingLibraryError
from .hub_errors import chain, describe_status, http_status, is_disk_full, reason, unusable_file

SITE = "ModelScope"


class ModelScopeRepository:
    """See hub.Repository. MODELSCOPE_CACHE and MODELSCOPE_API_TOKEN mean what the library says."""

    def __init__(self, name: str, revision: str | None) -> None:
        try:
            from modelscope.hub.api import HubApi
            from modelscope.hub.snapshot_download import snapshot_download
        except ImportError as error:
            raise MissingLibraryError(
                f"{name}: no such folder; to download it from ModelScope install the package "
                f"{error.name or 'modelscope'}: pip install modelscope"
            ) from None
        self.name = name
        self._revision = {} if revision is None else {"revision": revision}
        self._api = HubApi
        self._download = snapshot_download

    @contextlib.contextmanager
    def output(self, quiet: bool) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("modelscope", "modelscope_hub")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:  # their messages would only double our sentences
            logger.setLevel(logging.CRITICAL)
        try:
            with contextlib.ExitStack() as stack:
                # The library prints to stdout and draws its bars on whatever stderr is.
                if quiet or not sys.stderr.isatty():
                    nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                    stack.enter_context(contextlib.redirect_stderr(nowhere))
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def files(self) -> list[str]:
        with self._explained():
            entries = self._api().get_model_files(self.name, recursive=False, **self._revision)
        paths = [entry.get("Path") for entry in entries if entry.get("Type") != "tree"]
        return [path for path in paths if isinstance(path, str) and "/" not in path and "\\" not in path]

    def cached(self) -> Path | None:
        try:
            return Path(self._download(self.name, local_files_only=True, **self._revision))
        except Exception:  # each version of the library says in its own way that there is nothing
            return None

    def fetch(self, names: list[str]) -> Path:
        with self._explained(downloading=True):
            return Path(self._download(self.name, allow_file_pattern=names, **self._revision))

    @contextlib.contextmanager
    def _explained(self, downloading: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise HubError(f"{self.name}: {self._sentence(error, downloading)}") from None

    def _sentence(self, error: Exception, downloading: bool) -> str:
        failed = getattr(error, "failed_files", None)  # of a download, with the error of each
        if isinstance(failed, dict) and failed:
            error = next(iter(failed.values()))
        status = http_status(error)
        unusable = unusable_file(error)
        if is_disk_full(error):
            return (
                "the disk of ModelScope's cache is full; make room, or set MODELSCOPE_CACHE to a folder "
                "elsewhere, and run it again"
            )
        if status == 404 or any(type(step).__name__ == "NotExistError" for step in chain(error)):
            at = f" at revision {self._revision['revision']!r}" if self._revision else ""
            return (
                f"no such folder here and no such model on {SITE}{at}; check the name, or, if it is private, "
                "set MODELSCOPE_API_TOKEN to a token that may read it"
            )
        if status in (401, 403):
            return f"{SITE} refuses access ({status}); set MODELSCOPE_API_TOKEN to a token that may read it"
        if status is not None:
            return f"{SITE} answered {describe_status(status)}; run it again later"
        if unusable is not None:
            return (
                f"{unusable.filename} cannot be used ({unusable.strerror}); set MODELSCOPE_CACHE to a folder "
                "that can be written"
            )
        if downloading:
            return (
                f"the download from {SITE} broke off ({reason(error)}); run it again, which goes on from "
                "what is there"
            )
        return (
            f"no such folder here, and the connection to {SITE} failed ({reason(error)}); check the network, "
            "or use --hub huggingface"
        )
