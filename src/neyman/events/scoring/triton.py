"""Sessions of models on an inference server (Triton or another one that speaks KServe v2 over HTTP)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring.kserve import BROKEN, Client, Limits
from neyman.events.scoring.reference import Options, Reference, session
from neyman.events.scoring.session import shaped
from neyman.events.scoring.signature import Signature
from neyman.files import digest

Array = NDArray[np.float32]
_BATCH = 1 << 14
_PARAMETER = "neyman"


@dataclass(frozen=True)
class Address:
    """A model on a server: ``triton://host:8000/name?version=1``, ``tritons://`` for HTTPS.

    Attributes
    ----------
    server, model, version
        Where, and which; without a version the newest that the server has when the scorer is made.
    output
        Which of several outputs.
    timeout
        Seconds for the answer to one request.
    concurrency
        Requests of one process that are on their way at once.
    retries
        How often a request is repeated when the connection is lost, or the server is busy or late.
    """

    server: str
    model: str
    version: str = ""
    output: str = ""
    timeout: float = 60.0
    concurrency: int = 8
    retries: int = 4

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address.

        Raises
        ------
        ConfigError
            When it is not of this form, or has an unknown option.
        """
        expected = "triton://host:8000/model?version=1"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not the address of a model: {error}", expected=expected) from error
        if "@" in parts.netloc:
            raise ConfigError(
                "an address holds no user and password: messages would show them", expected=expected
            )
        path = parts.path.strip("/")
        model = unquote(path)
        if not host or not model or "/" in path or parts.fragment:
            raise ConfigError(f"{url!r} is not the address of a model", expected=expected)
        kinds: dict[str, Any] = {
            "version": str,
            "output": str,
            "timeout": float,
            "concurrency": int,
            "retries": int,
        }
        values: dict[str, Any] = {}
        for key, text in parse_qsl(parts.query, keep_blank_values=True):
            if key not in kinds:
                raise ConfigError(f"unknown option {key!r} in {url!r}", expected=f"one of {', '.join(kinds)}")
            try:
                values[key] = kinds[key](text)
            except ValueError as error:
                raise ConfigError(f"{key} is {text!r} in {url!r}", expected="a number") from error
        scheme = "https" if parts.scheme == "tritons" else "http"
        address = cls(f"{scheme}://{parts.netloc}", model, **values)
        if {model, address.version} & {".", ".."}:
            raise ConfigError(f"{url!r} is not the address of a model", expected=expected)
        if not (0.0 < address.timeout < math.inf and address.concurrency >= 1 and address.retries >= 0):
            raise ConfigError(f"the limits in {url!r} are not positive", expected=expected)
        return address

    @property
    def url(self) -> str:
        """The address with all that is not default."""
        options = {
            f.name: getattr(self, f.name) for f in fields(self)[2:] if getattr(self, f.name) != f.default
        }
        query = "?" + urlencode(options) if options else ""
        return re.sub("^http", "triton", self.server) + f"/{quote(self.model, safe='')}{query}"

    @property
    def limits(self) -> Limits:
        """What the client keeps to."""
        return Limits(self.timeout, self.concurrency, self.retries)


class TritonSession:
    """A model on a server; batches travel side by side and come back in order."""

    def __init__(self, client: Client, ports: Ports, options: Options, where: str) -> None:
        self.signature = ports.signature
        self._client, self._ports, self._where = client, ports, where
        self._batch = min(options.batch_size or _BATCH, ports.largest)

    def __call__(self, inputs: Array) -> Array:
        """Send all batches and wait for their answers."""
        parts = [inputs[start : start + self._batch] for start in range(0, len(inputs), self._batch)]
        outputs = self.signature.outputs
        answers = self._client.infer(self._ports.input, self._ports.output, outputs, parts)
        return np.concatenate(
            [shaped(y, len(x), outputs, self._where) for x, y in zip(parts, answers, strict=True)]
        )


@dataclass(frozen=True)
class Ports:
    """Names, shapes and limits of a model on a server.

    Attributes
    ----------
    input, output
        Names of the tensors.
    signature
        What the model takes and gives.
    largest
        Number of events that the server takes at once.
    """

    input: str
    output: str
    signature: Signature
    largest: int


def refer(name: str, url: str) -> Reference:
    """Refer to a model on a server, the version fixed now.

    Raises
    ------
    WorkspaceError
        When the server cannot be reached, is not ready, or has no such model.
    """
    address = Address.parse(url)
    metadata = Client(address.server, address.model, address.version, address.limits).metadata()
    versions: object = metadata.get("versions")
    if not address.version and isinstance(versions, list) and versions:
        newest = max(map(str, versions), key=lambda text: (len(text), text))
        address = replace(address, version=newest)
    which = [address.server, address.model, address.version, address.output]
    return Reference(
        name, "triton", address.url, digest(which, metadata.get("inputs"), metadata.get("outputs"))
    )


def open_session(reference: Reference, options: Options) -> TritonSession:
    """Ask the server about a model."""
    address = Address.parse(reference.location)
    client = Client(address.server, address.model, address.version, address.limits)
    metadata, configuration = client.metadata(), client.configuration()
    try:
        ports = _ports(metadata, configuration, address)
    except BROKEN as error:
        raise WorkspaceError(
            f"the description of the model {address.model!r} is broken: {error}", where=address.url
        ) from error
    return TritonSession(client, ports, options, reference.location)


def signature(reference: Reference, options: Options) -> Signature:
    """Return what the server says of a model."""
    return session(reference, options).signature


def _ports(metadata: Mapping[str, Any], configuration: Mapping[str, Any], address: Address) -> Ports:
    where = address.url
    inputs, outputs = list(metadata.get("inputs") or []), list(metadata.get("outputs") or [])
    chosen = [port for port in outputs if port.get("name") == address.output] if address.output else outputs
    if len(inputs) != 1 or len(chosen) != 1:
        names = [[str(port.get("name")) for port in ports] for ports in (inputs, outputs)]
        raise WorkspaceError(
            f"the model {address.model!r} has the inputs {', '.join(names[0])} and the outputs {', '.join(names[1])}",
            where=where,
            expected="one input, and one output or ?output=NAME",
        )
    shapes = [list(port.get("shape") or []) for port in (inputs[0], chosen[0])]
    kinds = {port.get("datatype") for port in (inputs[0], chosen[0])}
    if kinds != {"FP32"} or len(shapes[0]) != 2 or len(shapes[1]) not in (1, 2) or int(shapes[0][1]) < 1:
        raise WorkspaceError(
            f"the model {address.model!r} maps {inputs[0].get('datatype')} {shapes[0]} to "
            f"{chosen[0].get('datatype')} {shapes[1]}",
            where=where,
            expected="FP32 [-1, n_features] to FP32 [-1] or [-1, n_outputs]",
        )
    largest = int(configuration.get("max_batch_size") or 0) or _BATCH
    own = ((configuration.get("parameters") or {}).get(_PARAMETER) or {}).get("string_value")
    if own is None:
        signature = Signature(
            width=int(shapes[0][1]), outputs=max(1, int(shapes[1][1])) if len(shapes[1]) == 2 else 1
        )
    else:
        signature = Signature.read(own, where)
        if signature.width != int(shapes[0][1]):
            raise ValueError(f"{signature.width} inputs for the shape {shapes[0]}")
    return Ports(str(inputs[0]["name"]), str(chosen[0]["name"]), signature, largest)
