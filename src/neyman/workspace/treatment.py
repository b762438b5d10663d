"""`Treatment`: what is done to variations before they become normsys and histosys, with a record of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, WorkspaceError, nearest
from neyman.workspace.notes import Note
from neyman.workspace.smoothing import LEAST_BINS, smooth_353qh

Array = NDArray[np.float64]
Pair: TypeAlias = tuple[Array, Array]
Symmetrise = Literal["none", "average", "larger"]
Smooth = Literal["none", "353QH"]
What = Literal[
    "floored",
    "smoothed",
    "not smoothed",
    "mirrored",
    "symmetrised",
    "norm pruned",
    "shape pruned",
    "flow merged",
    "flow ignored",
]
_ROUNDING = 1e-12  # of the nominal bin: a negative value as small as this is 0


@dataclass(frozen=True)
class Treatment:
    """What is done to variations, in this order; by default nothing.

    Parameters
    ----------
    floor_negative
        Expected events that negative bins of the nominal, up and down histograms are set to; ``None``: a negative
        bin is an error.
    smooth
        ``353QH`` smooths the ratio of a variation to the nominal over the bins where the nominal is positive, and
        keeps the variation's total; fewer than 3 such bins are left alone.
    mirror_missing
        Whether an up variation without its down variation gets ``2 nominal - up``.
    symmetrise
        ``average``: nominal +- (up - down)/2. ``larger``: the larger of the two deviations bin by bin goes up and,
        mirrored, down; its sign is that of the up variation.
    prune_norm
        A normsys, of the histograms or of the `SampleModel`, is dropped if both factors are nearer to 1 than this.
    prune_shape
        A histosys is dropped if no bin, up or down at the nominal total, deviates by this fraction of its nominal
        content or more.

    Raises
    ------
    ConfigError
        When an option is unknown, a threshold is not from 0 to below 1, or the floor is not positive.
    """

    floor_negative: float | None = None
    smooth: Smooth = "none"
    mirror_missing: bool = False
    symmetrise: Symmetrise = "none"
    prune_norm: float = 0.0
    prune_shape: float = 0.0

    def __post_init__(self) -> None:
        for name, value, options in (
            ("symmetrise", self.symmetrise, get_args(Symmetrise)),
            ("smooth", self.smooth, get_args(Smooth)),
        ):
            if value not in options:
                raise ConfigError(
                    f"{name} of a treatment is {value!r}",
                    expected=f"one of {', '.join(options)}",
                    fix=f"nearest: {nearest(str(value), options, n=1)}",
                )
        if not isinstance(self.mirror_missing, bool):
            raise ConfigError(
                f"mirror_missing of a treatment is {self.mirror_missing!r}", expected="True or False"
            )
        for name, threshold in (("prune_norm", self.prune_norm), ("prune_shape", self.prune_shape)):
            if not (_is_number(threshold) and 0.0 <= threshold < 1.0):
                raise ConfigError(
                    f"{name} of a treatment is {threshold!r}",
                    expected="a relative threshold from 0 (keeps all) to below 1",
                )
        floor = self.floor_negative
        if floor is not None and not (_is_number(floor) and 0.0 < floor < np.inf):
            raise ConfigError(
                f"floor_negative of a treatment is {floor!r}",
                expected="a small positive number of events, or None",
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


@dataclass(frozen=True)
class Treated:
    """One thing that was done to a histogram.

    Parameters
    ----------
    channel, sample
        Where.
    parameter
        The nuisance parameter; the nominal category for the nominal histogram.
    what
        ``floored``, ``smoothed``, ``not smoothed`` (too few bins), ``mirrored``, ``symmetrised``, ``norm pruned``,
        ``shape pruned``, ``flow merged`` or ``flow ignored`` (events beyond the edges).
    size
        Of ``floored`` the events added; of ``norm pruned`` the larger deviation of its factors from 1; of the flow
        the fraction of the events that are beyond the edges; of all else the largest change of a bin, up or down,
        over its nominal content (over the sample's total where that is 0).
    detail
        The bins or the variation concerned, in words.
    """

    channel: str
    sample: str
    parameter: str
    what: What
    size: float
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


class Treating:
    """Applies a treatment to one sample of one channel and records what it did.

    Parameters
    ----------
    treatment
        What to do.
    channel, sample
        Their names.
    signed
        Whether bins may be negative, as those of an interference.
    """

    def __init__(self, treatment: Treatment, channel: str, sample: str, *, signed: bool = False) -> None:
        self.treatment, self.channel, self.sample = treatment, channel, sample
        self.signed = signed and treatment.floor_negative is None
        self.where = f"channel {channel}, sample {sample}"
        self.records: list[Treated] = []
        self.notes: list[Note] = []

    def nominal(self, values: Array, category: str) -> Array:
        """Return the nominal histogram without negative bins, unless they may be.

        Raises
        ------
        WorkspaceError
            When a bin is negative, may not be, and there is no floor.
        """
        bad = np.nonzero(values < 0.0)[0]
        if len(bad) and self.treatment.floor_negative is None and not self.signed:
            raise WorkspaceError(
                f"bin {bad[0]} has a negative expectation {values[bad[0]]:.4g}",
                where=self.where,
                fix="merge bins, or use more events where weights are negative, or set floor_negative "
                "(of a Treatment, or in [export])",
            )
        return self._floored(values, category, category)

    def flow(self, values: Array, category: str, flow: Literal["ignore", "merge"]) -> None:
        """Record the events in the bins below and above the edges, the first and last of `values`."""
        below, above, everything = float(values[0]), float(values[-1]), float(np.abs(values).sum())
        if below or above:
            size = (abs(below) + abs(above)) / everything
            what: What = "flow merged" if flow == "merge" else "flow ignored"
            self._note(category, what, size, f"{below:.4g} events below and {above:.4g} above the edges")

    def examine(self, parameter: str, nominal: Array, pair: Pair) -> None:
        """Note what deserves a look about a variation that enters the model."""
        factors = [float(values.sum() / nominal.sum()) for values in pair]
        if min(factors) > 1.0 + _ROUNDING or max(factors) < 1.0 - _ROUNDING:
            detail = f"{parameter!r} changes the total by {factors[0]:.6g} up and {factors[1]:.6g} down"
            self._find("one-sided", detail, max(abs(f - 1.0) for f in factors))
        filled = np.maximum(*(np.abs(values) for values in pair)) * (nominal == 0.0)
        if filled.any():
            detail = f"{parameter!r} in bin {_listed(filled)}, where the nominal is empty"
            self._find("fills empty bins", detail, float(filled.sum() / np.abs(nominal).sum()))

    def certain(self, nominal: Array, variances: Array) -> None:
        """Note the bins whose events have no statistical uncertainty, where others have one."""
        bad = (nominal != 0.0) & (variances == 0.0)
        if bad.any() and variances.any():
            size = float(np.abs(nominal[bad]).sum() / np.abs(nominal).sum())
            self._find("no uncertainty", f"of the simulation in bin {_listed(bad)}", size)

    def variations(
        self, nominal: Array, given: Mapping[str, tuple[Array, Array | None]], suffixes: tuple[str, str]
    ) -> dict[str, Pair]:
        """Return the treated up and down histograms by parameter.

        Parameters
        ----------
        nominal
            The sample's nominal histogram.
        given
            Up and down histogram by parameter; no down histogram for one that is to be mirrored.
        suffixes
            Of the names of the up and down categories, for messages.

        Raises
        ------
        WorkspaceError
            When a bin of a variation is negative, as given or by smoothing or mirroring, may not be, and there is no
            floor.
        """
        return {name: self._pair(name, nominal, pair, suffixes) for name, pair in given.items()}

    def keeps_norm(self, parameter: str, up: float, down: float) -> bool:
        """Return whether a normsys with these factors stays."""
        size = max(abs(up - 1.0), abs(down - 1.0))
        pruned = size < self.treatment.prune_norm
        if pruned:
            self._note(parameter, "norm pruned", size, f"factors {up:.6g} and {down:.6g}")
        return not pruned

    def keeps_shape(self, parameter: str, nominal: Array, shapes: Pair) -> bool:
        """Return whether a histosys with these histograms stays; a bin that is empty nominally keeps it."""
        if self.treatment.prune_shape == 0.0:
            return True
        change = np.maximum(*(np.abs(shape - nominal) for shape in shapes))
        pruned = bool((change < self.treatment.prune_shape * np.abs(nominal))[change > 0.0].all())
        if pruned:
            size, worst = _size(nominal, change)
            self._note(parameter, "shape pruned", size, f"largest in bin {worst}")
        return not pruned

    def _pair(
        self, name: str, nominal: Array, pair: tuple[Array, Array | None], suffixes: tuple[str, str]
    ) -> Pair:
        categories = name + suffixes[0], name + suffixes[1]
        up = self._positive(pair[0], name, categories[0])
        down = None if pair[1] is None else self._positive(pair[1], name, categories[1])
        if not (nominal.any() or up.any() or (down is not None and down.any())):
            return up, nominal.copy() if down is None else down  # the sample has no events here
        if self.treatment.smooth != "none":
            up = self._smoothed(up, name, categories[0], nominal)
            down = None if down is None else self._smoothed(down, name, categories[1], nominal)
        if down is None:
            by = f", mirrored from {categories[0]!r}"
            down = self._positive(_without_rounding(2.0 * nominal - up, nominal), name, categories[1], by)
            size, worst = _size(nominal, np.abs(up - nominal))
            self._note(
                name, "mirrored", size, f"{categories[1]!r} from {categories[0]!r}, largest in bin {worst}"
            )
        if self.treatment.symmetrise != "none":
            up, down = self._symmetrised((up, down), name, categories, nominal)
        return up, down

    def _smoothed(self, values: Array, name: str, category: str, nominal: Array) -> Array:
        filled = nominal > 0.0
        old, base = values[filled], nominal[filled]
        if len(old) < LEAST_BINS:
            self._note(name, "not smoothed", 0.0, f"{category!r} has {len(old)} bins with nominal events")
            return values
        new = base * smooth_353qh(old / base)
        if not new.sum() > 0.0:
            self._note(name, "not smoothed", 0.0, f"nothing of {category!r} would be left")
            return values
        out = values.copy()
        out[filled] = _without_rounding(new * (old.sum() / new.sum()), base)
        size, worst = _size(nominal, np.abs(out - values))
        self._note(name, "smoothed", size, f"{category!r}, largest change in bin {worst}")
        return self._positive(out, name, category, " after smoothing")

    def _symmetrised(self, pair: Pair, name: str, categories: tuple[str, str], nominal: Array) -> Pair:
        up, down = pair
        if self.treatment.symmetrise == "average":
            deviation = 0.5 * (up - down)
        else:
            above, below = up - nominal, down - nominal
            sign = np.where(above != 0.0, np.sign(above), -np.sign(below))
            deviation = sign * np.maximum(np.abs(above), np.abs(below))
        out = nominal + deviation, nominal - deviation
        size, worst = _size(
            nominal, np.maximum(*(np.abs(new - old) for new, old in zip(out, pair, strict=True)))
        )
        if size > _ROUNDING:
            kind = self.treatment.symmetrise
            self._note(name, "symmetrised", size, f"{kind} deviation, largest change in bin {worst}")
        new_up, new_down = (
            self._positive(_without_rounding(values, nominal), name, category, " after symmetrisation")
            for values, category in zip(out, categories, strict=True)
        )
        return new_up, new_down

    def _positive(self, values: Array, name: str, category: str, by: str = "") -> Array:
        bad = np.nonzero(values < 0.0)[0]
        if len(bad) and self.treatment.floor_negative is None and not self.signed:
            raise WorkspaceError(
                f"bin {bad[0]} of {category!r} is negative{by}: {values[bad[0]]:.4g} events",
                where=self.where,
                expected="expected events of 0 or more in every bin",
                fix="merge bins, use more events, or set floor_negative (of a Treatment, or in [export])",
            )
        return self._floored(values, name, category)

    def _floored(self, values: Array, parameter: str, category: str) -> Array:
        bad = np.nonzero(values < 0.0)[0]
        floor = self.treatment.floor_negative
        if not len(bad) or floor is None:
            return values
        out = values.copy()
        out[bad] = floor
        bins = ", ".join(f"{i} from {values[i]:.4g}" for i in bad)
        added = float((out - values).sum())
        self._note(parameter, "floored", added, f"{category!r} to {floor:g} in bin {bins}")
        return out

    def _find(self, what: str, detail: str, size: float) -> None:
        self.notes.append(Note(self.where, what, detail, size))

    def _note(self, parameter: str, what: What, size: float, detail: str) -> None:
        self.records.append(Treated(self.channel, self.sample, parameter, what, float(size), detail))


def _listed(bins: NDArray[Any]) -> str:
    return ", ".join(str(i) for i in np.flatnonzero(bins))


def _size(nominal: Array, change: Array) -> tuple[float, int]:
    """Return the largest change of a bin over its content, of empty bins over the total, and the bin."""
    contents = np.abs(nominal)
    total = contents.sum()
    if not total > 0.0:
        return 0.0, 0
    relative = change / np.where(contents > 0.0, contents, total)
    worst = int(relative.argmax())
    return float(relative[worst]), worst


def _without_rounding(values: Array, nominal: Array) -> Array:
    """Return the values with 0 for what is negative by no more than the rounding of differences."""
    return np.where((values < 0.0) & (values > -_ROUNDING * nominal), 0.0, values)
