"""Whether workers run the same neyman: a result must not depend on which of them made it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from neyman.errors import ConfigError
from neyman.files import digest, sha256


@cache
def code() -> str:
    """Digest of the installed package."""
    root = Path(__file__).parents[1]
    return digest([(f.relative_to(root).as_posix(), sha256(f)) for f in sorted(root.rglob("*.py"))])


def check_here(expected: str) -> None:
    """Raise when this process, a worker, has other code than the client with the digest `expected`.

    Raises
    ------
    ConfigError
        When it has.
    """
    if code() != expected:
        raise ConfigError(
            "this worker runs another version of neyman than the client",
            where=str(Path(__file__).parents[1]),
            expected="the same code everywhere",
            fix="install the same version there and restart the workers",
        )


def check_workers(client: Any) -> None:
    """Raise when a worker of `client` has no neyman or another.

    Raises
    ------
    ConfigError
        Naming the first such worker.
    """
    answers = client.run(check_here, code(), on_error="return")
    for address, answer in sorted(answers.items()):
        if isinstance(answer, ConfigError):
            raise ConfigError(
                answer.what,
                where=f"{address}, {answer.where}",
                expected=answer.expected,
                fix=answer.fix,
            )
        if isinstance(answer, ImportError):
            raise ConfigError(
                f"a worker cannot import neyman: {answer}",
                where=address,
                fix="start the workers in an environment with the same neyman as here",
            )
        if isinstance(answer, Exception) and not isinstance(
            answer, OSError
        ):  # such a worker has just been lost
            raise ConfigError(f"a worker cannot be asked for its neyman: {answer!r}", where=address)
