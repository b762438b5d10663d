"""One style for all figures, applied locally: neither rcParams nor pyplot keep a trace.

`styled` wraps a function that draws; inside it, `figure` makes an empty canvas and the helpers place legends and
labels. `save` writes a finished figure in the same style.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError, optional
from neyman.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Array = NDArray[np.float64]

# Ten colours that stay distinct for colour-blind readers: Petroff, arXiv:2107.02270.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
BLUE, ORANGE, RED, GREY = PALETTE[0], PALETTE[6], PALETTE[2], PALETTE[8]
INK, FAINT = "#1b1f24", "#8a9099"
SCREEN_DPI = 100
FORMATS = (".png", ".pdf")

_OVERRIDES: dict[str, Any] = {
    "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
    "font.size": 11.0,
    "figure.dpi": SCREEN_DPI,
    "axes.linewidth": 0.9,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "legend.borderpad": 0.2,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.8,
    **{f"{axis}tick.{which}.size": size for axis in "xy" for which, size in (("major", 5.0), ("minor", 2.5))},
    **{f"{axis}tick.major.pad": 4.0 for axis in "xy"},
}


@contextmanager
def context() -> Iterator[None]:
    """Apply the style for the duration of a block: mplhep's CMS style at the size of a report.

    Raises
    ------
    MissingExtraError
        When matplotlib or mplhep is not installed.
    """
    styles = optional("matplotlib.style", "plot")
    base = optional("mplhep", "plot").style.CMS
    with styles.context(["default", base, _OVERRIDES]):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function in the style, then lay its figure out once.

    The layout is kept as it is from then on; ``figure.set_layout_engine("constrained")`` adapts it to what is added.
    """

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with context():
            drawn = draw(*args, **kwargs)
            drawn.draw_without_rendering()  # ticks are made on first drawing, from the rcParams of that moment
            drawn.set_layout_engine("none")
            return drawn

    return wrapper


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches (100 pixels each on a page), laid out without overlaps."""
    empty: Figure = optional("matplotlib.figure", "plot").Figure(
        figsize=(width, height), layout="constrained"
    )
    return empty


def save(drawn: Figure, path: Path, *, scale: float = 2.0) -> None:
    """Write a figure, atomically; the suffix chooses PNG (at `scale` pixels a screen pixel, 128 colours) or PDF.

    Raises
    ------
    InputError
        When the suffix is another one, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"a figure cannot be written to {path.name!r}",
            expected=f"a name that ends in {' or '.join(FORMATS)}",
        )
    with context(), atomic(path) as part:
        if suffix == ".pdf":  # without a date the same figure gives the same bytes
            drawn.savefig(part, format="pdf", metadata={"CreationDate": None})
            return
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=scale * SCREEN_DPI)
        image = optional("PIL.Image", "plot")
        full = image.open(buffer).convert("RGB")
        full.quantize(128, method=image.Quantize.MEDIANCUT, dither=image.Dither.NONE).save(
            part, format="PNG", optimize=True
        )


def plain(result: Any) -> Mapping[str, Any]:
    """Return the dictionary of a result record; a dictionary passes."""
    data: Mapping[str, Any] = result.to_dict() if hasattr(result, "to_dict") else result
    return data


def numbers(values: Any) -> Array:
    """Return an array in which None (not finite, in JSON) is NaN."""
    return np.array(values, dtype=np.float64)


def symbol(parameter: str) -> str:
    """Return how a parameter is written for readers."""
    return {"mu": "μ"}.get(parameter, parameter)


def label(text: str) -> str:
    """Return `text` for an axis: what is not valid mathtext is shown as it is."""
    text = re.sub("([A-Za-z])\u0304", r"$\\bar{\1}$", text)  # few fonts place a combining bar well
    if text.count("$") >= 2:
        parser = optional("matplotlib.mathtext", "plot").MathTextParser("path")
        try:
            parser.parse(text)
        except ValueError:
            return text.replace("$", r"\$")
    return text


def tint(colour: str, strength: float) -> str:
    """Return `colour` mixed with white: 1 is the colour, 0 is white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in parts)


def grid(n: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of a grid of `n` panels."""
    return math.ceil(n / columns), min(n, columns)


def legend_above(axes: Axes, *, columns: int, handles: Any = None) -> None:
    """Place the legend above the frame, where there is no data."""
    placed: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0.0, 1.0),
        "ncols": columns,
        "borderaxespad": 0.3,
    }
    axes.legend(**placed, **({} if handles is None else {"handles": handles}))


def levels(axes: Axes, marks: Mapping[float, str]) -> None:
    """Draw horizontal lines with their names outside the right edge."""
    for height, name in marks.items():
        axes.axhline(height, color=FAINT, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
        axes.text(
            1.01,
            height,
            name,
            transform=axes.get_yaxis_transform(),
            va="center",
            ha="left",
            fontsize="small",
            color=GREY,
        )
