"""From what a user calls a model to a GGUF file: what is none is converted once, into a cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import file_lock
from ._C import Error, FormatError, InvalidArgument, __version__

DEFAULT_MODEL = Path(__file__).with_name("default_model")
OLD_MAGIC = b"ggml"  # of the model files of chatglm.cpp up to 0.4
DEFAULT_DTYPE = "q4_0"  # of a checkpoint
DTYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
CACHE_VARIABLE = "CHATGLM_CPP_CACHE"

_DAY = 24 * 60 * 60  # seconds

_MAYBE_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(
    path: str | os.PathLike[str] | None, dtype: str | None = None, verbose: bool | None = None
) -> Path:
    """The GGUF file for `path`: itself, or what the checkpoint or old file `path` was converted to.

    Args:
        path: a GGUF file, the folder of a Hugging Face checkpoint, its name on the Hugging Face Hub, a model
            file of chatglm.cpp up to 0.4, or None for the model in the package.
        dtype: type of the matrices when something is converted; by default "q4_0" for a checkpoint, and the
            types that an old file has.
        verbose: show downloads and conversions on stderr; by default when stderr is a terminal.

    Raises:
        FileNotFoundError: there is nothing at `path`, or it cannot be had from the hub; the message says why.
        Error: downloading or converting needs packages that are not installed.
        FormatError: the old file is damaged.
        ValueError: the checkpoint cannot be converted; the message says why.
        OSError: the cache folder cannot be written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InvalidArgument(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}.")
    if path is None:
        if not (DEFAULT_MODEL / "config.json").is_file():
            raise FileNotFoundError("This installation has no model of its own; give the path of one.")
        return _converted(_local_source(DEFAULT_MODEL), dtype or DEFAULT_DTYPE, verbose)
    found = expand_user(path)
    if found.is_dir():
        if not (found / "config.json").is_file():
            if is_adapter_folder(found):
                raise InvalidArgument(f"{found}: is a LoRA adapter and no model; {_ADAPTER_ADVICE}")
            raise FileNotFoundError(
                f"{found}: is a folder without config.json; give the folder of a Hugging Face checkpoint "
                "or a .gguf file."
            )
        return _converted(_local_source(found), dtype or DEFAULT_DTYPE, verbose)
    if is_old_model(found):
        return _converted(_local_source(found), dtype, verbose)
    if not found.exists():
        if _MAYBE_ON_HUB.fullmatch(os.fspath(path)):
            return _converted(_hub_source(os.fspath(path), verbose), dtype or DEFAULT_DTYPE, verbose)
        raise FileNotFoundError(f"{found}: no such file or folder.")
    return found


def expand_user(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ as the home folder that it stands for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or no home folder: it may still be a name
        return Path(path)


_ADAPTER_ADVICE = (
    "make a file of it with 'python -m chatglm_cpp.convert -i FOLDER --base MODEL -o adapter.gguf' and use "
    "that beside the model (--lora), or merge it: convert the model with -l FOLDER."
)


def is_adapter_folder(path: Path) -> bool:
    """Whether `path` is a folder in which PEFT saved an adapter."""
    return (path / "adapter_config.json").is_file()


def adapter_path(path: str | os.PathLike[str]) -> str:
    """The file of an adapter as the engine takes it.

    Raises:
        InvalidArgument: it is a folder, which must be converted first, or its name is not UTF-8.
    """
    found = expand_user(path)
    if found.is_dir():
        what = "is a LoRA adapter as PEFT saves it" if is_adapter_folder(found) else "is a folder"
        raise InvalidArgument(f"{found}: {what}; {_ADAPTER_ADVICE}")
    return engine_path(found)


def is_old_model(path: Path) -> bool:
    """Whether `path` is a model file of chatglm.cpp up to 0.4. What cannot be read is none."""
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            return False
        with open(path, "rb") as file:
            return file.read(len(OLD_MAGIC)) == OLD_MAGIC
    except OSError:
        return False


def engine_path(path: str | os.PathLike[str]) -> str:
    """`path` as the engine takes it, which is UTF-8.

    Raises:
        InvalidArgument: its bytes are not UTF-8.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise InvalidArgument(f"{name!a}: a path cannot hold a zero byte.")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{name!a}: the path is not UTF-8; rename the file, or give it through a link."
        ) from None
    return name


def remove_damaged(path: str | os.PathLike[str] | None, converted: Path) -> bool:
    """Deletes `converted`, the file in the cache that `path` was converted to, so that it is made again.

    False when `path` names the file itself, which is the user's, or when it cannot be deleted.
    """
    if path is not None and expand_user(path) == converted:
        return False
    try:
        converted.unlink()
    except OSError:
        return False
    return True


def cache_folder() -> Path:
    """Where converted checkpoints are kept: $CHATGLM_CPP_CACHE, or the platform's place for caches.

    Who has no home folder gets a folder among the temporary files.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return expand_user(chosen)
    try:
        return _platform_cache()
    except RuntimeError:
        return _temporary_cache()


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "chatglm_cpp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "chatglm_cpp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatglm_cpp"


def _temporary_cache() -> Path:
    user = os.getuid() if sys.platform != "win32" else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"chatglm_cpp-{user}"


def _writable_cache() -> Path:
    """The cache folder, made where it is missing; one among the temporary files where that cannot be.

    Raises:
        OSError: there is neither, or the folder that the user chose cannot be written.
    """
    cache = cache_folder()
    try:
        _make_cache(cache)
    except OSError as error:
        if not os.environ.get(CACHE_VARIABLE) and cache != _temporary_cache():
            with contextlib.suppress(OSError):
                _make_cache(_temporary_cache())
                return _temporary_cache()
        raise OSError(
            f"{cache}: the cache folder cannot be made ({error.strerror}); "
            f"set {CACHE_VARIABLE} to another one."
        ) from None
    return cache


def _make_cache(cache: Path) -> None:
    if cache == _temporary_cache():
        # Everybody may write beside it, so that it could be somebody else's by now.
        cache.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and (cache.is_symlink() or cache.stat().st_uid != os.getuid()):
            raise PermissionError(errno.EPERM, "it belongs to another user")
    cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class _Source(NamedTuple):
    """A checkpoint or old file to convert."""

    path: Path
    name: str  # how messages call it
    files: Iterable[str]  # a line for each of its files, which changes with its content


def _local_source(path: Path) -> _Source:
    path = path.resolve()
    return _Source(path, str(path), _file_states(path))


def _hub_source(name: str, verbose: bool | None) -> _Source:
    """The checkpoint `name` of the Hugging Face Hub, which is downloaded where it is missing."""
    try:
        from .convert import hub
    except ImportError as error:
        raise _missing(name, error) from None
    if hub.hub_name(name) is None:
        raise FileNotFoundError(f"{name}: no such file or folder.")
    try:
        folder = hub.download(name, quiet=not _is_verbose(verbose))
    except hub.MissingLibraryError as error:
        raise Error(str(error)) from None
    except hub.HubError as error:
        raise FileNotFoundError(str(error)) from None
    # The commit in the path stands for the content. Other programs share the folder, so that only the files
    # which are read count.
    files = [f"{file}\0{folder.name}\0" for file in sorted(hub.files_in_use(folder))]
    return _Source(folder, name, files)


def _missing(name: str, error: ImportError) -> Error:
    return Error(
        f"{name}: converting it needs the package {error.name}; run: pip install 'chatglm-cpp[convert]'"
    )


def _is_verbose(verbose: bool | None) -> bool:
    return sys.stderr is not None and sys.stderr.isatty() if verbose is None else verbose


def _converted(source: _Source, dtype: str | None, verbose: bool | None) -> Path:
    """The file in the cache for `source`; `dtype` None keeps the types of an old file."""
    place = hashlib.sha256(os.fsencode(source.name)).hexdigest()[:8]
    title = re.sub(r"[^\w.-]", "_", Path(source.name).name)[:60] or "model"
    name = f"{title}-{dtype or 'stored'}-{place}-{_state(source.files)}.gguf"
    target = cache_folder() / name
    # A cache that cannot be written may still have been filled before.
    if target.parent == _temporary_cache() or not target.is_file():
        target = _writable_cache() / name
    if target.is_file():
        return target
    try:
        from .convert import convert
        from .convert.report import ProgressBar
    except ImportError as error:
        raise _missing(source.name, error) from None
    say = (lambda text: print(text, file=sys.stderr)) if _is_verbose(verbose) else lambda text: None
    # Two that start together need not both convert, each with the memory for it.
    lock = target.with_name(f".{place}-{dtype or 'stored'}.lock")
    with file_lock.hold(lock, lambda: say(f"Another process is converting {source.name}: waiting for it")):
        if target.is_file():
            return target
        kind = f"to {dtype}" if dtype else "from the older file format"
        say(f"Converting {source.name} {kind}, once, into {target}")
        try:
            with ProgressBar(quiet=not _is_verbose(verbose)) as progress:
                convert(source.path, target, dtype, progress=progress)
        except ValueError as error:
            # Where there are no locks, another process may have put the same file there, which Windows does
            # not replace while it is in use.
            if not target.is_file():
                if source.path.is_file():
                    raise FormatError(str(error)) from None
                raise
        _remove_outdated(target)
    return target


def _state(files: Iterable[str]) -> str:
    """A digest of everything that decides what a conversion gives."""
    state = hashlib.sha256(__version__.encode())
    for source in sorted(Path(__file__).with_name("convert").glob("*.py")):
        state.update(source.read_bytes())
    for line in files:
        state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:12]


def _file_states(path: Path) -> Iterator[str]:
    for file in [path] if path.is_file() else _files_that_count(path):
        status = file.stat()
        yield f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0"


def _files_that_count(folder: Path) -> list[Path]:
    """The files of a checkpoint, without those that others put there."""
    files = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in files if not file.name.startswith(".") and file.suffix != ".gguf")


def _remove_outdated(target: Path) -> None:
    """Deletes what the same source and type were converted to before they changed, and what conversions
    that died have left."""
    kept = target.name.rpartition("-")[0]
    for other in target.parent.glob("*.gguf"):
        if other != target and other.name.rpartition("-")[0] == kept:
            with contextlib.suppress(OSError):  # in use by another process on Windows
                other.unlink()
    for part in target.parent.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _DAY:
                part.unlink()
