"""Checkpoints from the Hugging Face Hub or a mirror of it, through huggingface_hub and its cache."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .hub import CONFIG_FILES, HubError, MissingLibraryError
from .hub_errors import chain, describe_status, http_status, is_disk_full, reason, unusable_file

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HuggingFaceRepository:
    """See hub.Repository. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what the library says."""

    def __init__(self, name: str, revision: str | None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors
        except ImportError as error:
            raise MissingLibraryError(
                f"{name}: no such folder; to download it from the Hugging Face Hub install the package "
                f"{error.name or 'huggingface_hub'}: pip install 'chatglm-cpp[convert]'"
            ) from None
        self.name = name
        self._revision = revision or "main"
        self._hub = huggingface_hub
        self._constants = constants
        self._errors = errors
        self._api = huggingface_hub.HfApi(library_name="chatglm_cpp")
        self._commit = ""
        self._sizes: dict[str, int] = {}

    @contextlib.contextmanager
    def output(self, quiet: bool) -> Iterator[None]:
        utils: Any = self._hub.utils
        logger = logging.getLogger("huggingface_hub")  # its warnings would only double our sentences
        level = logger.level
        hide = quiet and not utils.are_progress_bars_disabled()
        logger.setLevel(logging.ERROR)
        if hide:
            utils.disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(level)
            if hide:
                utils.enable_progress_bars()

    def files(self) -> list[str]:
        with self._explained():
            info = self._api.model_info(
                self.name,
                revision=self._revision,
                timeout=self._constants.HF_HUB_ETAG_TIMEOUT,
                files_metadata=True,
            )
        listed = {f.rfilename: f.size or 0 for f in info.siblings or []}
        if not _COMMIT.fullmatch(info.sha or "") or not listed:
            raise HubError(f"{self.name}: {self._site} does not list any files of it; is HF_ENDPOINT right?")
        self._commit = info.sha or ""
        self._sizes = {name: size for name, size in listed.items() if "/" not in name and "\\" not in name}
        return list(self._sizes)

    def cached(self) -> Path | None:
        with self._explained():
            for name in CONFIG_FILES:
                path = self._cached_file(name, self._revision)
                if path is not None:
                    return path.parent
        return None

    def fetch(self, names: list[str]) -> Path:
        with self._explained():
            missing = [name for name in names if self._cached_file(name, self._commit) is None]
            self._check_room(sum(self._sizes[name] for name in missing))
        if self._revision != self._commit:
            # By the revision's own name, so that the library notes its commit for offline use.
            self._fetch_file(names[0], self._revision)
        # One after the other: an interrupted pool of threads would first finish the files it is at.
        paths = [self._fetch_file(name, self._commit) for name in names]
        return paths[0].parent

    def _fetch_file(self, name: str, revision: str) -> Path:
        with self._explained(name):
            return Path(self._api.hf_hub_download(self.name, name, revision=revision))

    @property
    def _site(self) -> str:
        return urlsplit(self._constants.ENDPOINT).netloc or self._constants.ENDPOINT

    def _cached_file(self, name: str, revision: str) -> Path | None:
        path = self._hub.try_to_load_from_cache(self.name, name, revision=revision)
        return Path(path) if isinstance(path, str) else None

    def _check_room(self, needed: int) -> None:
        cache = Path(self._constants.HF_HUB_CACHE)
        place = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise HubError(
                f"{self.name}: needs {needed / 1e9:.1f} GB more, but only {free / 1e9:.1f} GB are free in "
                f"{cache}; make room or set HF_HOME to a folder elsewhere"
            )

    @contextlib.contextmanager
    def _explained(self, file: str | None = None) -> Iterator[None]:
        """Turns the many errors of the library and of the HTTP library below it into sentences."""
        try:
            yield
        except HubError:
            raise
        except Exception as error:
            raise HubError(f"{self.name}: {self._sentence(error, file)}") from None

    def _sentence(self, error: Exception, file: str | None) -> str:
        errors, site = self._errors, self._site
        causes = list(chain(error))

        def caused_by(kind: type[Exception]) -> bool:
            return any(isinstance(step, kind) for step in causes)

        status = http_status(error)
        unusable = unusable_file(error)
        if is_disk_full(error):
            return (
                f"the disk of {self._constants.HF_HUB_CACHE} is full; make room, or set HF_HOME to a folder "
                "elsewhere, and run it again"
            )
        if caused_by(errors.GatedRepoError):
            return (
                f"is gated; accept its terms at {self._constants.ENDPOINT}/{self.name}, then set HF_TOKEN to "
                "a token of that account"
            )
        if caused_by(errors.RevisionNotFoundError):
            return f"has no branch, tag or commit {self._revision!r} on {site}; look there for the right one"
        if caused_by(errors.RepositoryNotFoundError):
            return (
                f"no such folder here and no such model on {site}; check the name, or, if it is private, set "
                "HF_TOKEN to a token that may read it"
            )
        if caused_by(errors.OfflineModeIsEnabled):
            return (
                f"no such folder here, HF_HUB_OFFLINE is set, and {self._constants.HF_HUB_CACHE} does not "
                "hold all of it; run it once without HF_HUB_OFFLINE"
            )
        if status in (401, 403):
            return f"{site} refuses access ({status}); set HF_TOKEN to a valid token that may read it"
        if status is not None:
            return f"{site} answered {describe_status(status)}; run it again later"
        if unusable is not None:
            return (
                f"{unusable.filename} cannot be used ({unusable.strerror}); set HF_HOME to a folder that can "
                "be written"
            )
        if file is not None:
            return (
                f"the download of {file} from {site} broke off ({reason(error)}); run it again, which goes "
                "on from what is complete"
            )
        return (
            f"no such folder here, and the connection to {site} failed ({reason(error)}); check the network, "
            "or set HF_ENDPOINT to a mirror, or convert with --hub modelscope"
        )
