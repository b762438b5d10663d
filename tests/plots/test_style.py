"""Figures leave no trace in matplotlib's global state, and say what they need."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from neyman import plots
from neyman.errors import MissingExtraError


def test_neither_pyplot_nor_rcparams_keep_a_trace(make: SimpleNamespace) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context({"font.size": 17.0, "axes.facecolor": "#123456"}):
        before = dict(mpl.rcParams)
        figure = plots.profile_scan(make.profile(make.fit()))
        assert dict(mpl.rcParams) == before
        assert figure.axes[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # the user's settings do not leak in
    assert plt.get_fignums() == []


def test_rcparams_are_restored_after_an_error(make: SimpleNamespace) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with pytest.raises(KeyError):
        plots.comparison([{"label": "incomplete"}])
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("hidden", ["matplotlib", "mplhep"])
def test_a_missing_extra_is_named(
    hidden: str, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == hidden]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(MissingExtraError, match=rf"{hidden} is not installed[\s\S]*neyman\[plot\]"):
        plots.profile_scan(make.profile(make.fit()))


def test_importing_the_functions_does_not_import_matplotlib() -> None:
    code = (
        "import sys; import neyman.plots as p; [getattr(p, name) for name in p.__all__]; "
        "print([m for m in ('matplotlib', 'mplhep', 'torch', 'scipy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_facade_is_what_it_says() -> None:
    assert dir(plots) == sorted(plots.__all__)
    assert all(getattr(plots, name) is not None for name in plots.__all__)
    with pytest.raises(AttributeError, match="no attribute 'histogramm'"):
        plots.histogramm  # noqa: B018
