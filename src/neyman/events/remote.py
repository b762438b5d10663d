"""Files at URLs: a URL is as good as a path wherever event files are given.

fsspec brings the protocols: ``http`` and ``https`` (with aiohttp), ``root`` (fsspec-xrootd), ``s3`` (s3fs), ``memory``
and more; ``simplecache::https://...`` keeps a copy of a file here. What may pass by itself, such as a lost connection
or a busy server, is tried again after each of `PAUSES`; whatever is wrong in the end is a
:class:`~neyman.errors.NeymanError` that names the URL.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from neyman.errors import InputError, MissingExtraError, NeymanError, nearest

PAUSES = (0.5, 2.0)  # seconds before the second and the third attempt
CONNECT = 15.0  # seconds to reach a server
SILENCE = 60.0  # seconds without a byte after which an attempt has failed

_HTTP = ("aiohttp", "pip install 'neyman[http]'")
_EXTRAS = {"root": ("fsspec-xrootd", "pip install 'neyman[xrootd]'"), "http": _HTTP, "https": _HTTP}
_BUSY = {408, 425, 429}  # statuses of http that pass, beside those of 500 and above
_VERSION = ("size", "ETag", "Content-MD5", "Digest", "md5Hash", "Last-Modified", "LastModified", "mtime")
T = TypeVar("T")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a URL."""
    return "://" in os.fspath(path)


def protocol_of(url: str) -> str:
    """Return the protocol of a URL, the innermost one of a chain such as ``simplecache::https://...``."""
    return url.rpartition("::")[2].partition("://")[0]


def is_pattern(url: str) -> bool:
    """Whether a URL stands for all that match it; in one of http a question mark begins the query."""
    return any(c in url for c in ("*[" if protocol_of(url) in {"http", "https"} else "*?["))


def join(home: str | os.PathLike[str], name: str) -> str:
    """Return `name` as seen from the folder or URL `home`; URLs and absolute paths stay, ``@`` stays in front."""
    if name.startswith("@"):
        return "@" + join(home, name[1:])
    if is_remote(name) or Path(name).is_absolute():
        return name
    return f"{os.fspath(home).rstrip('/')}/{name}" if is_remote(home) else str(Path(home) / name)


def options(url: str) -> dict[str, Any]:
    """Return fsspec's options of the protocols in a URL, by protocol: how long to wait."""
    protocols = {part.partition("://")[0] for part in url.split("::")}
    found: dict[str, Any] = {}
    for protocol in protocols & {"http", "https"}:
        with suppress(ImportError):
            aiohttp = importlib.import_module("aiohttp")
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
            found[protocol] = {"client_kwargs": {"timeout": timeout}}
    return found | {protocol: {"timeout": int(SILENCE)} for protocol in protocols & {"root"}}


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Raises
    ------
    MissingExtraError
        The package of the protocol is not installed.
    InputError
        There is no such protocol.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options(url))
    except Exception as error:
        raise failure(url, error) from error
    return found


def patiently(action: Callable[[], T], url: str) -> T:
    """Call `action`, which reads from `url`, again after each pause while what fails may pass.

    Raises
    ------
    InputError, MissingExtraError
        It fails; names the URL and the number of attempts.
    """
    for attempt, pause in enumerate((*PAUSES, None), start=1):
        try:
            return action()
        except Exception as error:
            if pause is None or not _may_pass(error):
                raise failure(url, error, attempt) from error
        time.sleep(pause)
    raise InputError("nothing was read", where=url)


def failure(url: str, error: BaseException, attempts: int = 1) -> NeymanError:
    """Return the error to raise when reading from `url` has failed with `error`."""
    if isinstance(error, NeymanError):
        return error
    protocol = protocol_of(url)
    if isinstance(error, ImportError):
        package, fix = _EXTRAS.get(protocol, ("another package", str(error)))
        return MissingExtraError(f"{protocol}:// needs {package}", where=url, fix=fix)
    if isinstance(error, ValueError) and str(error).startswith("Protocol not known"):
        from fsspec.registry import known_implementations

        return InputError(
            f"there is no protocol {protocol}://",
            where=url,
            expected=nearest(protocol, known_implementations),
        )
    cause = _cause(error)
    if isinstance(cause, FileNotFoundError) or _status(cause) in {404, 410}:
        return InputError("there is no such file", where=url, fix="check the URL")
    if isinstance(cause, PermissionError) or _status(cause) in {401, 403}:
        return InputError(
            f"the server refuses the file: {_text(cause)}", where=url, fix="check your credentials"
        )
    if "range requests" in str(cause):
        return whole_file(url)
    tried = f" in {attempts} attempts" if attempts > 1 else ""
    return InputError(
        f"cannot be read{tried}: {_text(cause)}",
        where=url,
        fix="check that the server can be reached from here and that the file is complete, then try again",
    )


def whole_file(url: str) -> InputError:
    """Return the error to raise when a server does not serve parts of a file."""
    return InputError(
        "the server sends the whole file where a part is asked for",
        where=url,
        fix="copy the file, or put simplecache:: before the URL, which does that",
    )


def _cause(error: BaseException) -> BaseException:
    cause = error.__cause__
    # fsspec's http calls whatever goes wrong when it asks for a size a missing file.
    if isinstance(error, FileNotFoundError) and cause is not None and _of_network(cause):
        return cause
    # kXR_NotFound of the XRootD protocol, and what fsspec-xrootd says of a file that a folder it has listed lacks.
    return FileNotFoundError() if any(text in str(error) for text in ("[3011]", "_ls_from_cache")) else error


def _of_network(error: BaseException) -> bool:
    aiohttp = sys.modules.get("aiohttp")
    return isinstance(error, OSError) or (aiohttp is not None and isinstance(error, aiohttp.ClientError))


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _may_pass(error: BaseException) -> bool:
    error = _cause(error)
    if (status := _status(error)) is not None:
        return status >= 500 or status in _BUSY
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | ValueError | NeymanError):
        return False
    # The XRootD client has tried again by itself until then.
    return _of_network(error) and "Operation expired" not in str(error)


def _text(error: BaseException) -> str:
    status, message = _status(error), getattr(error, "message", None)
    if status is not None and message is not None:
        return f"the server answers {status} {message}".rstrip()
    lines = str(error).strip().splitlines()
    if isinstance(error, TimeoutError):
        return f"no answer within {SILENCE:g} s"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def find(url: str, suffix: str = "") -> list[str]:
    """Return the URLs that a pattern matches, or of all ``*suffix`` below a folder that ends with ``/``, sorted."""
    fs, path = filesystem(url)
    folder = re.split(r"[*?[]", path)[0].rpartition("/")[0] if not url.endswith("/") else path
    if not patiently(lambda: _is_listed(fs, folder), url):
        return []
    if url.endswith("/"):
        found = [name for name in patiently(lambda: fs.find(path), url) if name.endswith(suffix)]
    else:
        found = patiently(lambda: fs.glob(path), url)
    return sorted(fs.unstrip_protocol(name) for name in found)


def _is_listed(fs: Any, folder: str) -> bool:
    # Looking for files, fsspec passes over folders that it cannot list, were it for a server that is down.
    try:
        fs.ls(folder, detail=False)
    except OSError as error:
        if isinstance(_cause(error), FileNotFoundError):
            return False
        raise
    return True


def version(url: str) -> str:
    """Return what the server tells of the content of a file without sending it: size, checksum, time of change."""
    fs, path = filesystem(url)
    info = patiently(lambda: fs.info(path), url)
    told = {key: str(info[key]) for key in _VERSION if info.get(key) is not None}
    if len(told) < 2:
        with suppress(Exception):  # not all file systems know it, and then it is no part of the version
            told["modified"] = str(fs.modified(path))
    return json.dumps(told, sort_keys=True)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open a file for reading; only the bytes that are asked for are sent.

    Raises
    ------
    Exception
        Of the file system, as it is: wrap what is done with the file in :func:`patiently`.
    """
    fs, path = filesystem(url)
    with fs.open(path, "rb", cache_type="none") as file:
        yield file


def read_text(path: str) -> str:
    """Return the text of a small file, here or at a URL.

    Raises
    ------
    InputError
        It cannot be read or is no text.
    """
    try:
        if not is_remote(path):
            return Path(path).read_text(encoding="utf-8")
        fs, place = filesystem(path)
        return str(patiently(lambda: fs.cat_file(place), path), encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{Path(path).name} does not exist", where=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{Path(path).name} is not readable text: {error}", where=path) from error


def read_list(path: str) -> list[str]:
    """Return the files of a list: a text with one a line, or JSON.

    Lines that are empty or begin with ``#`` do not count. JSON is a list of files, or of ``{"uri": file}`` as in the
    file indices of the CERN Open Data portal. Relative files are relative to the folder of the list.

    Raises
    ------
    InputError
        The list cannot be read, is empty or of another form.
    """
    text = read_text(path)
    lines = [line.strip() for line in text.splitlines()]
    found: list[Any] = [line for line in lines if line and not line.startswith("#")]
    if text.lstrip().startswith(("[", "{")):
        try:
            document = json.loads(text)
        except ValueError as error:
            raise InputError(f"the list of files is not readable JSON: {error}", where=path) from error
        entries = document if isinstance(document, list) else [document]
        found = [entry.get("uri") if isinstance(entry, dict) else entry for entry in entries]
    if not found or not all(isinstance(one, str) and one for one in found):
        raise InputError(
            "not a list of files",
            where=path,
            expected='one file a line, or JSON such as ["a.root"] or [{"uri": "root://host//a.root"}]',
        )
    home = path.rpartition("/")[0] if is_remote(path) else str(Path(path).parent)
    return [join(home, one) for one in found]
