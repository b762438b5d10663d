"""How analysis frameworks name variations on the systematic axis of a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from neyman.errors import ConfigError, nearest

_FRAMEWORKS = {
    "pocketcoffea": ("variation", "nominal", "Up", "Down"),
    "topcoffea": ("systematic", "nominal", "Up", "Down"),
    "columnflow": ("shift", "nominal", "_up", "_down"),
    "agc": ("variation", "nominal", "_up", "_down"),
}


@dataclass(frozen=True)
class Naming:
    """How variations are named on the systematic axis.

    Parameters
    ----------
    axis
        Name of the string-category axis.
    nominal
        Its nominal category.
    up, down
        Suffixes of the up and down variations of a nuisance parameter.
    """

    axis: str = "variation"
    nominal: str = "nominal"
    up: str = "Up"
    down: str = "Down"

    @classmethod
    def of(cls, naming: Self | str | None) -> Self:
        """Return a naming as it is, that of a framework by its name, or the default for None.

        Known are ``pocketcoffea`` (the default), ``topcoffea``, ``columnflow`` and ``agc``.

        Raises
        ------
        ConfigError
            When no framework has this name.

        Examples
        --------
        >>> Naming.of("agc")
        Naming(axis='variation', nominal='nominal', up='_up', down='_down')
        """
        if naming is None:
            return cls()
        if isinstance(naming, cls):
            return naming
        if not isinstance(naming, str) or naming.lower() not in _FRAMEWORKS:
            raise ConfigError(
                f"no naming is known as {naming!r}",
                expected=f"a Naming, or one of {', '.join(_FRAMEWORKS)}",
                fix=f"nearest: {nearest(str(naming), _FRAMEWORKS, n=1)}",
            )
        return cls(*_FRAMEWORKS[naming.lower()])

    def varied(self, parameter: str) -> tuple[str, str]:
        """Return the categories of the up and the down variation of a nuisance parameter."""
        return parameter + self.up, parameter + self.down

    def split(self, category: str) -> tuple[str, str] | None:
        """Return the nuisance parameter and ``"up"`` or ``"down"`` of a category; None for any other one."""
        for suffix, direction in ((self.up, "up"), (self.down, "down")):
            if category.endswith(suffix) and category != suffix:
                return category.removesuffix(suffix), direction
        return None
