"""A client of the KServe v2 inference protocol over HTTP with its binary tensor extension.

An event loop in a thread of its own serves all clients of a process: processor threads hand their batches over and wait
for the answers. Sources: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
Triton's ``docs/protocol/extension_binary_data.md``.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import math
import os
import re
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from neyman.errors import WorkspaceError, optional

Array = NDArray[np.float32]
_LENGTH = "Inference-Header-Content-Length"
_BUSY = frozenset({429, 502, 503, 504})
_NO_CONFIGURATION = frozenset({400, 404, 405, 501})  # of other servers than Triton
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0  # seconds before a request is repeated, doubled each time
_TYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}
_LARGEST = 1 << 26  # bytes of an answer beside those of the numbers that were asked for
_LONGEST_REASON = 1000  # characters
_NUMBER = 32  # bytes of a number in JSON
BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)  # by odd documents


@dataclass(frozen=True)
class Limits:
    """Seconds for an answer, requests on their way at once, and how often one is repeated."""

    timeout: float
    concurrency: int
    retries: int


class _Loop:
    """The event loop of this process, its thread, and the connections by server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: dict[str, Any] = {}

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run in the loop's thread and wait; an interrupt of the waiting thread cancels the work."""
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def connections(self, server: str) -> Any:
        """Return the connections to a server; called in the loop."""
        if server not in self._sessions:
            aiohttp: Any = optional("aiohttp", "triton")
            self._sessions[server] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._sessions[server]

    def close(self) -> None:
        """Close connections and stop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return

        async def close() -> None:
            for connections in self._sessions.values():
                await connections.close()
            self._sessions.clear()

        asyncio.run_coroutine_threadsafe(close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                optional("aiohttp", "triton")
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="neyman-triton", daemon=True
                )
                self._thread.start()
            return self._loop


_LOOP = _Loop()


@atexit.register
def _close() -> None:
    _LOOP.close()


_PARENTS: list[_Loop] = []


def _forget() -> None:
    # The thread does not survive a fork; the sockets belong to the parent, and are not to be closed here.
    global _LOOP  # noqa: PLW0603
    _PARENTS.append(_LOOP)
    _LOOP = _Loop()


os.register_at_fork(after_in_child=_forget)


class Client:
    """A model on a server.

    Parameters
    ----------
    server
        Base URL.
    model, version
        Name and version; the server's choice without a version.
    limits
        What to keep to.
    """

    def __init__(self, server: str, model: str, version: str, limits: Limits) -> None:
        self._server, self._model, self._limits = server, model, limits
        self._path = f"/v2/models/{quote(model, safe='')}"
        if version:
            self._path += f"/versions/{quote(version, safe='')}"
        self._slots: asyncio.Semaphore | None = None

    def metadata(self) -> Mapping[str, Any]:
        """Return the description of the model, once the server and the model are ready.

        Raises
        ------
        WorkspaceError
            When the server cannot be reached, or has no such model.
        """

        async def ask() -> Any:
            await self._request("GET", "/v2/health/ready")
            return await self._request("GET", self._path)

        return self._document(_LOOP.run(ask)[1])

    def configuration(self) -> Mapping[str, Any]:
        """Return Triton's configuration of the model; empty where the server has none to show."""

        async def ask() -> Any:
            return await self._request("GET", f"{self._path}/config", missing=_NO_CONFIGURATION)

        return self._document(_LOOP.run(ask)[1])

    def infer(self, input_name: str, output_name: str, outputs: int, parts: list[Array]) -> list[Array]:
        """Return the output of several batches, in their order, with so many numbers an event.

        Raises
        ------
        WorkspaceError
            When the server refuses, stays unreachable, or answers something else than was asked.
        """

        async def one(rows: Array) -> Array:
            body, headers = encode(input_name, output_name, rows)
            numbers = len(rows) * outputs
            found = await self._request("POST", f"{self._path}/infer", body, headers, numbers=numbers)
            try:
                return decode(output_name, *found)
            except BROKEN as error:
                raise self._error(f"the answer is not what was asked for: {error}") from error

        async def ask() -> Any:
            tasks = [asyncio.ensure_future(one(rows)) for rows in parts]
            try:
                return await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

        answers: list[Array] = _LOOP.run(ask)
        return answers

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        missing: frozenset[int] = frozenset(),
        numbers: int = 0,
    ) -> tuple[Mapping[str, str], bytes]:
        """Send a request, again after a pause when the connection is lost or the server is busy or late."""
        import aiohttp
        from yarl import URL

        url = URL(self._server + path, encoded=True)
        largest = _LARGEST + _NUMBER * numbers
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._limits.concurrency)
        problem, wanted = "", 0.0
        for attempt in range(self._limits.retries + 1):
            if attempt:
                # Processes that were refused together do not come back together.
                spread = 1.0 + (os.getpid() % 100) / 100.0
                await asyncio.sleep(
                    max(wanted, min(_FIRST_WAIT * 2 ** (attempt - 1) * spread, _LONGEST_WAIT))
                )
            try:
                async with (
                    self._slots,
                    _LOOP.connections(self._server).request(
                        method,
                        url,
                        data=body,
                        headers=headers,
                        allow_redirects=False,  # a POST would go on as a GET
                        timeout=aiohttp.ClientTimeout(total=self._limits.timeout),
                    ) as answer,
                ):
                    data = await self._read(answer, largest, path)
                    if answer.status == 200:
                        return answer.headers, data
                    if answer.status in missing:
                        return {}, b"{}"
                    problem = f"HTTP {answer.status} {_reason(data)}"
                    if answer.status not in _BUSY:
                        raise self._error(f"the server refuses {path}: {problem}")
                    wanted = _pause(answer.headers.get("Retry-After", ""), self._limits.timeout)
            except TimeoutError:
                problem = f"no answer within {self._limits.timeout:g} s"
            except (aiohttp.ClientError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
        raise self._error(
            f"no answer to {path} in {self._limits.retries + 1} attempts: {problem}",
            fix="check that the server runs and can be reached from this machine",
        )

    async def _read(self, answer: Any, largest: int, path: str) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_any():
            size += len(part)
            if size > largest:
                raise self._error(f"the answer to {path} is longer than {largest} bytes")
            parts.append(part)
        return b"".join(parts)

    def _document(self, data: bytes) -> Mapping[str, Any]:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._error(f"the description of the model is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise self._error("the description of the model is no JSON object")
        return document

    def _error(self, what: str, fix: str | None = None) -> WorkspaceError:
        # Never an OSError, as that of a lost connection is: coffea's `skipbadfiles` would drop the chunk.
        return WorkspaceError(what, where=f"model {self._model!r} at {self._server}", fix=fix)


def encode(input_name: str, output_name: str, rows: Array) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request: JSON, then the numbers as they are in memory."""
    numbers = np.ascontiguousarray(rows, dtype="<f4").tobytes()
    document = {
        "inputs": [
            {
                "name": input_name,
                "shape": list(rows.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(numbers)},
            }
        ],
        "outputs": [{"name": output_name, "parameters": {"binary_data": True}}],
    }
    header = json.dumps(document).encode()
    return header + numbers, {_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}


def decode(output_name: str, headers: Mapping[str, str], data: bytes) -> Array:
    """Return an output of an answer, whether its numbers are binary or in the JSON.

    Raises
    ------
    ValueError
        When it is missing, or its size is not that of its shape.
    """
    length = int(headers.get(_LENGTH, len(data)))
    if not 0 <= length <= len(data):
        raise ValueError(f"{length} bytes of JSON in an answer of {len(data)}")
    offset = length
    for port in json.loads(data[:length])["outputs"]:
        shape = [int(size) for size in port["shape"]]
        size = (port.get("parameters") or {}).get("binary_data_size")
        if port["name"] == output_name:
            kind = _TYPES.get(port["datatype"])
            if kind is None:
                raise ValueError(f"{output_name} is {port['datatype']}, not FP32")
            values = (
                np.asarray(port["data"], dtype=kind)
                if size is None
                else np.frombuffer(data[offset : offset + int(size)], dtype=kind)
            )
            if values.size != math.prod(shape):
                raise ValueError(f"{output_name} has {values.size} numbers for shape {shape}")
            with np.errstate(over="ignore"):  # to infinity, which is refused with the number of events
                return values.reshape(shape).astype(np.float32)
        offset += int(size or 0)
    raise ValueError(f"no output {output_name!r}")


def _reason(data: bytes) -> str:
    text = data.decode(errors="replace")
    try:
        return str(json.loads(text)["error"])[:_LONGEST_REASON]
    except BROKEN:
        return text[:_LONGEST_REASON]


def _pause(seconds: str, longest: float) -> float:
    """Seconds that a busy server asks for, as far as it makes sense; it may also name a date, which is ignored."""
    return min(float(seconds), longest) if re.fullmatch(r"\d{1,9}", seconds, re.ASCII) else 0.0
