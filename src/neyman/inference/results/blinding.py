"""`BlindFit`: a fit whose central values are hidden, sealed so that only the seed opens it."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from neyman.errors import InferenceError
from neyman.inference.results.fits import FitResult, MinosError
from neyman.inference.results.named import NamedMatrix, NamedVector, Record

_ROUNDS = 100_000
_PLAIN = ("fval", "valid", "edm", "n_value", "n_gradient", "n_hessian")


@dataclass(frozen=True, eq=False)
class BlindFit(Record):
    """A fit with hidden central values.

    There is no covariance, no minimum of ``-2 ln L``, no MINOS interval and no message in it, since these tell where
    the hidden parameters are; all of that comes back from :meth:`unblind`. It can be written as JSON and read again
    by :meth:`from_dict`.

    Parameters
    ----------
    names
        All parameters of the likelihood.
    blinded
        Those that are hidden.
    values
        Best-fit values; those of hidden parameters are moved by an offset that the seed and the name decide, the same
        in every fit, so that differences between fits stay true.
    errors
        Errors of all parameters.
    pulls
        Best fit minus global observable in units of the prefit error, of the constrained parameters that are not
        hidden; empty without a likelihood.
    scale
        Largest possible offset of each hidden parameter, in its unit.
    valid
        Whether the fit is a minimum.
    at_bounds
        Parameters at a bound, hidden ones excepted.
    fixed
        Parameters that were not fitted.
    n_hidden_messages
        Messages of the fit, all hidden.
    sealed
        The whole fit, encrypted with the seed.
    """

    names: tuple[str, ...]
    blinded: tuple[str, ...]
    values: NamedVector
    errors: NamedVector
    pulls: Mapping[str, float]
    scale: Mapping[str, float]
    valid: bool
    at_bounds: tuple[str, ...]
    fixed: tuple[str, ...]
    n_hidden_messages: int
    sealed: str

    def unblind(self, seed: int | str) -> FitResult:
        """Return the fit as it was, without its ``Minuit`` object.

        Raises
        ------
        InferenceError
            When the seed is not the one that the fit was blinded with.
        """
        document = json.loads(unseal(self.sealed, seed))
        names = tuple(document["names"])
        covariance = document["covariance"]
        return FitResult(
            names=names,
            values=NamedVector(names, document["values"]),
            errors=NamedVector(names, document["errors"]),
            covariance=None if covariance is None else NamedMatrix(names, covariance),
            at_bounds=tuple(document["at_bounds"]),
            fixed=tuple(document["fixed"]),
            minos={name: MinosError(**one) for name, one in document["minos"].items()},
            messages=tuple(document["messages"]),
            **{name: document[name] for name in _PLAIN},
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return the record whose :meth:`to_dict` is `document`."""
        try:
            fields: dict[str, Any] = {name: document[name] for name in cls.__dataclass_fields__}
            names = tuple(fields["names"])
            for key in ("values", "errors"):
                numbers = (fields[key][name] for name in names)
                fields[key] = NamedVector(names, [math.nan if one is None else one for one in numbers])
            for key in ("names", "blinded", "at_bounds", "fixed"):
                fields[key] = tuple(fields[key])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise InferenceError("the document is not a blinded fit", where=repr(error)) from error

    def __str__(self) -> str:
        lines = [f"fit {'valid' if self.valid else 'NOT VALID'}, blinded: {', '.join(self.blinded)}"]
        width = max(map(len, self.names))
        for name in self.names[:40]:
            shown = "hidden" if name in self.blinded else f"{self.values[name]:.6g}"
            line = f"  {name:<{width}}  {shown:>12}"
            line += "  fixed" if name in self.fixed else f" +- {self.errors[name]:.3g}"
            if name in self.pulls:
                line += f"  pull {self.pulls[name]:+.2f}"
            lines.append(line)
        if len(self.names) > 40:
            lines.append(f"  ... and {len(self.names) - 40} more parameters")
        return "\n".join(lines)


def written(fit: FitResult) -> str:
    """Return a fit as text that loses no digit and no NaN."""
    document: dict[str, Any] = {name: getattr(fit, name) for name in _PLAIN}
    document |= {
        "names": fit.names,
        "values": fit.values.array.tolist(),
        "errors": fit.errors.array.tolist(),
        "covariance": None if fit.covariance is None else fit.covariance.array.tolist(),
        "at_bounds": fit.at_bounds,
        "fixed": fit.fixed,
        "minos": {name: vars(one) for name, one in fit.minos.items()},
        "messages": fit.messages,
    }
    return json.dumps(document)


# Sealing: the digest of the text under one key is both the check of the seed and the nonce of the key stream, so the
# same fit under the same seed is always the same seal.


def seal(text: str, pair: tuple[bytes, bytes]) -> str:
    """Return `text` encrypted with the keys of a seed, as hexadecimal digits."""
    check, stream = pair
    content = text.encode()
    tag = hmac.digest(check, content, "sha256")
    return (tag + _mixed(content, stream, tag)).hex()


def unseal(sealed: str, seed: int | str) -> str:
    """Return the text of a seal; another seed is an `InferenceError`."""
    check, stream = keys(seed)
    try:
        raw = bytes.fromhex(sealed)
    except ValueError as error:
        raise InferenceError("the sealed fit is damaged", where=str(error)) from error
    tag, content = raw[:32], _mixed(raw[32:], stream, raw[:32])
    if not hmac.compare_digest(tag, hmac.digest(check, content, "sha256")):
        raise InferenceError("this is not the seed that the fit was blinded with", fix="give the same seed")
    return content.decode()


def keys(seed: int | str) -> tuple[bytes, bytes]:
    """Return the two keys that belong to a seed."""
    both = hashlib.pbkdf2_hmac("sha512", str(seed).encode(), b"neyman.blind", _ROUNDS)
    return both[:32], both[32:]


def _mixed(content: bytes, stream: bytes, nonce: bytes) -> bytes:
    noise = hashlib.shake_256(stream + nonce).digest(len(content))
    return bytes(a ^ b for a, b in zip(content, noise, strict=True))
