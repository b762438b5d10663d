"""Figure of the trainings: losses of every network against the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import BLUE, ORANGE, figure, grid, numbers, plain, styled, tint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def training(histories: Mapping[str, Any], *, columns: int = 3) -> Figure:
    """Draw training and held-out loss against the step, a thin line for each member and a thick one for their mean.

    A dot marks the step whose state a member keeps.

    Parameters
    ----------
    histories
        A `neyman.training.History` or its dictionary by title of the panel.
    columns
        Panels in a row.
    """
    if not histories:
        raise InputError("there are no trainings to draw", expected="at least one history")
    rows, columns = grid(len(histories), columns)
    drawn = figure(max(3.6 * columns, 6.2), 0.5 + 2.5 * rows)  # the legend needs its width
    panels = drawn.subplots(rows, columns, squeeze=False)
    for axes, (title, history) in zip(panels.flat, histories.items(), strict=False):
        data = plain(history)
        steps = numbers(data["steps"])
        for key, colour, name in (("training", ORANGE, "training"), ("validation", BLUE, "held out")):
            members = numbers(data[key])
            axes.plot(steps, members, color=tint(colour, 0.45), linewidth=0.7)
            axes.plot(steps, members.mean(axis=1), color=colour, label=f"{name}, mean of the members")
        held_out = numbers(data["validation"])
        best = [int(np.argmin(np.abs(steps - step))) for step in data["best_step"]]
        axes.plot(
            steps[best],
            held_out[best, np.arange(len(best))],
            "o",
            color=BLUE,
            markersize=3.5,
            label="kept state",
        )
        axes.set_title(title, fontsize="small")
        axes.set_xlabel("step")
        axes.set_xlim(0.0, 1.03 * steps[-1])
        axes.minorticks_off()
        axes.ticklabel_format(axis="y", useOffset=False)
    for axes in panels.flat[len(histories) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("loss")
    handles, names = panels.flat[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper left", ncols=len(names))
    return drawn
