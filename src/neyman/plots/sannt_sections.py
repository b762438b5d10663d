"""The parts of the report of a SANNT: its numbers as sentences and tables, with whatever is missing left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neyman.plots import sections, words
from neyman.plots.markup import Html, badge, bullets, details, escape, join, table, tag
from neyman.plots.sannt import STAGES, signal_processes
from neyman.plots.style import numbers

Results = Mapping[str, Any]

EQUAL = 0.005  # relative difference of uncertainties that count as equal
AGREE = 0.01  # and of methods that agree
_METHODS = {
    "fisher": "Fisher information",
    "hesse": "HESSE",
    "minos": "MINOS",
    "pyhf": "pyhf",
    "statistical": "statistical only",
}
_TREATED = {
    "floored": "negative bins raised",
    "smoothed": "smoothed",
    "not smoothed": "not smoothed, too few bins",
    "mirrored": "one-sided, mirrored",
    "symmetrised": "symmetrised",
    "norm pruned": "normalisation pruned",
    "shape pruned": "shape pruned",
}


@dataclass(frozen=True)
class Expectation:
    """Uncertainty of one strength before and after the training, by one method for both."""

    method: str
    total: tuple[float, float]
    shown: tuple[str, str]
    statistical: tuple[float | None, float | None]

    @property
    def change(self) -> float:
        return self.total[1] / self.total[0] - 1.0 if self.total[0] else 0.0


def expectation(results: Results, signal: str) -> Expectation:
    """Return the best that both stages have: MINOS before HESSE before the Fisher information."""
    pair = [(results.get("fits") or {}).get(key) or {} for key in STAGES]
    for method in ("minos", "hesse", "fisher"):
        found = [value(one, method, signal) for one in pair]
        if None not in found:
            return Expectation(
                _METHODS[method],
                (float(found[0] or 0.0), float(found[1] or 0.0)),
                (shown(pair[0], method, signal), shown(pair[1], method, signal)),
                (value(pair[0], "statistical", signal), value(pair[1], "statistical", signal)),
            )
    own = [results["sannt"][key]["uncertainty"]["signals"][signal] for key in STAGES]
    return Expectation(
        _METHODS["fisher"],
        (own[0]["total"], own[1]["total"]),
        (f"± {number(own[0]['total'])}", f"± {number(own[1]['total'])}"),
        (own[0]["statistical"], own[1]["statistical"]),
    )


def value(fit: Results, method: str, signal: str) -> float | None:
    """Uncertainty by one method; of MINOS the mean of both sides."""
    found = (fit.get(method) or {}).get(signal)
    if method == "minos":
        ends = _ends(found)
        return None if ends is None else 0.5 * (ends[0] + ends[1])
    return None if found is None or not math.isfinite(found) else float(found)


def shown(fit: Results, method: str, signal: str) -> str:
    """Uncertainty by one method as words."""
    ends = _ends((fit.get(method) or {}).get(signal)) if method == "minos" else None
    if ends is not None:
        return f"+{number(ends[1])} −{number(ends[0])}"
    found = value(fit, method, signal)
    return "–" if found is None else f"± {number(found)}"


def _ends(pair: Sequence[float | None] | None) -> tuple[float, float] | None:
    """Distances below and above, both positive; None where one is missing."""
    if pair is None or len(pair) != 2 or any(end is None or not math.isfinite(end) for end in pair):
        return None
    return abs(float(pair[0] or 0.0)), abs(float(pair[1] or 0.0))


def number(x: float | None) -> str:
    """Three significant digits, but no more than four decimals."""
    if x is None or not math.isfinite(x):
        return "–"
    digits = int(np.clip(2 - math.floor(math.log10(abs(x))), 0, 4)) if x else 3
    return f"{x:.{digits}f}".replace("-", "−")


def verdict(results: Results, labels: Mapping[str, str]) -> Html:
    """Say for each signal what the training has gained."""
    found = results["sannt"]
    parts: list[Html] = []
    several = len(found["signals"]) > 1
    for signal in found["signals"]:
        one = expectation(results, signal)
        of = f" of {labels.get(signal, signal)}" if several else ""
        before, after = (number(x) for x in one.total)
        if abs(one.change) < EQUAL:
            head = f"The expected uncertainty{of} stays the same within {100 * EQUAL:g}%"
        else:
            head = f"SANNT {'reduces' if one.change < 0.0 else 'increases'} the expected uncertainty{of} by "
            head += f"{100.0 * abs(one.change):.1f}%"
        said = tag("strong", f"{head}, from {before} (CENNT) to {after}.")
        parts.append(tag("p", said, " ", _split(one), class_="warning" if one.change > EQUAL else "verdict"))
    if found["trained"]["histograms"] == found["pretrained"]["histograms"]:
        same = "No state of the training was better than CENNT on held-out events: the networks are CENNT's."
        parts.append(tag("p", same, class_="verdict"))
    return join(*parts)


def _split(one: Expectation) -> str:
    if one.statistical[0] is None or one.statistical[1] is None:
        return ""
    before, after = (number(x) for x in one.statistical)
    systematic = [
        number(math.sqrt(max(total**2 - float(alone or 0.0) ** 2, 0.0)))
        for total, alone in zip(one.total, one.statistical, strict=True)
    ]
    return (
        f"The statistical part goes from {before} to {after}, the rest (in quadrature) from {systematic[0]} to "
        f"{systematic[1]}."
    )


def methods(results: Results, labels: Mapping[str, str]) -> Html:
    """Uncertainties by all methods, and where they disagree."""
    fits = results.get("fits") or {}
    signals = results["sannt"]["signals"]
    rows = _rows(fits, signals, labels)
    if not rows:
        return tag("p", "The histograms were not fitted: figures are from the Fisher information.")
    found = disagreements(results, labels)
    agreement = tag("p", f"All methods agree within {100 * AGREE:g}%.")
    if found:
        agreement = join(tag("p", f"Where methods differ by more than {100 * AGREE:g}%:"), bullets(found))
    note = "Asimov data at the nominal parameters. Change: SANNT relative to CENNT, of MINOS by the mean of both sides."
    parts = [table(("expected Δr", *STAGES.values(), "change"), rows, note=note), agreement]
    return join(*parts)


def _rows(fits: Results, signals: Sequence[str], labels: Mapping[str, str]) -> list[tuple[Any, ...]]:
    pair = [fits.get(key) or {} for key in STAGES]
    rows: list[tuple[Any, ...]] = []
    for signal in signals:
        prefix = f"{labels.get(signal, signal)}, " if len(signals) > 1 else ""
        for method, name in _METHODS.items():
            before, after = (value(one, method, signal) for one in pair)
            if before is None and after is None:
                continue
            change = words.change(after, before) if before and after is not None else "–"
            rows.append((f"{prefix}{name}", *(shown(one, method, signal) for one in pair), change))
    if rows and all("valid" in one for one in pair):
        rows.append(("fits", *(badge(one["valid"]) for one in pair), ""))
    return rows


def disagreements(results: Results, labels: Mapping[str, str]) -> list[str]:
    """Sentences on methods that differ by more than 1 %, with what that means."""
    out = []
    for signal in results["sannt"]["signals"]:
        for key, stage in STAGES.items():
            fit = (results.get("fits") or {}).get(key) or {}
            who = f"{stage}, {labels.get(signal, signal)}" if len(results["sannt"]["signals"]) > 1 else stage
            fisher, hesse, pyhf = (value(fit, method, signal) for method in ("fisher", "hesse", "pyhf"))
            ends = _ends((fit.get("minos") or {}).get(signal))
            if _apart(fisher, hesse):
                out.append(
                    f"{who}: HESSE is {_percent(hesse, fisher)} the Fisher information. Variations are asymmetric, or "
                    "were smoothed, pruned or symmetrised after the training."
                )
            if ends is not None and hesse and max(_difference(end, hesse) for end in ends) > AGREE:
                out.append(
                    f"{who}: MINOS gives +{number(ends[1])} −{number(ends[0])} where HESSE gives ± {number(hesse)}. "
                    "The likelihood is not parabolic: MINOS is the interval to quote."
                )
            if _apart(pyhf, hesse):
                out.append(
                    f"{who}: HESSE is {_percent(hesse, pyhf)} the curvature that pyhf finds, for the same likelihood. "
                    "One of the minimisations is not accurate."
                )
    return out


def _difference(a: float, b: float) -> float:
    return abs(a / b - 1.0)


def _apart(a: float | None, b: float | None) -> bool:
    return bool(a and b and max(_difference(a, b), _difference(b, a)) > AGREE)


def _percent(a: float | None, b: float | None) -> str:
    change = 100.0 * (float(a or 0.0) / float(b or 1.0) - 1.0)
    return f"{abs(change):.1f}% {'above' if change > 0.0 else 'below'}"


def observed(results: Results, config: Results) -> Html:
    """Fitted strengths of the data, with the bins of both stages where they were fitted."""
    fits = {"SANNT": results.get("observed"), "CENNT": results.get("observed_cennt")}
    found = {name: one for name, one in fits.items() if one is not None}
    strengths = list((config.get("strengths") or {}).values())
    if not strengths:
        strengths = list(next(iter(found.values())).get("minos") or next(iter(found.values()))["values"])
    rows: list[tuple[Any, ...]] = [
        (name, *(_strength(one, name) for one in found.values()))
        for name in strengths
        if all(name in one["values"] for one in found.values())
    ]
    rows.append(
        (
            "goodness of fit: p (statistic / degrees of freedom)",
            *(_goodness(one.get("goodness_of_fit")) for one in found.values()),
        )
    )
    if all("valid" in one for one in found.values()):
        rows.append(("fit", *(badge(one["valid"]) for one in found.values())))
    notes = [f"{name}: {message}" for name, one in found.items() for message in one.get("messages") or ()]
    return join(
        table(("fitted to the data, with bins of", *found), rows),
        bullets(notes),
    )


def _strength(fit: Results, name: str) -> str:
    central, error = fit["values"][name], (fit.get("errors") or {}).get(name)
    ends = _ends((fit.get("minos") or {}).get(name))
    if ends is not None:
        scale = min(ends)
        return f"{words.rounded(central, scale)} +{words.rounded(ends[1], scale)} −{words.rounded(ends[0], scale)}"
    return words.rounded(central, error) + (f" ± {words.rounded(error, error)}" if error else "")


def _goodness(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"p = {found['p_value']:.2g} ({found['statistic']:.1f} / {found['ndof']})"
    return "–" if found is None else f"p = {found:.2g}"


def strength_card(results: Results, config: Results) -> tuple[str, str] | None:
    """The first observed strength, if there is one."""
    fit = results.get("observed")
    if fit is None:
        return None
    names = [*(config.get("strengths") or {}).values(), *(fit.get("minos") or {}), *fit["values"]]
    name = next((n for n in names if n in fit["values"]), None)
    return None if name is None else (f"{name}, observed", _strength(fit, name))


def events(results: Results, config: Results, labels: Mapping[str, str]) -> Html:
    """Simulated events, expected yields, and the effective events of the scarcest bin."""
    parts: list[Any] = []
    if listed := results.get("events"):
        rows = [
            (
                labels.get(name, name),
                words.count(one["training"]),
                words.count(one["held_out"]),
                f"{one['expected']:,.1f}",
            )
            for name, one in listed.items()
        ]
        total = sum(one["expected"] for one in listed.values())
        rows.append((tag("strong", "total"), "", "", f"{total:,.1f}"))
        parts.append(table(("process", "events, training", "events, held out", "expected"), rows))
    if regions := results.get("regions"):
        parts += [tag("h3", "Regions"), _regions(regions, labels)]
    parts += [tag("h3", "Effective events"), _effective(results, config, labels)]
    return join(*parts)


def _regions(regions: Results, labels: Mapping[str, str]) -> Html:
    processes = list(dict.fromkeys(name for one in regions.values() for name in one["processes"]))
    rows: list[tuple[Any, ...]] = []
    for region, one in regions.items():
        cells = [one["processes"].get(name) for name in processes]
        counts = ["–" if cell is None else f"{cell['expected']:,.1f}" for cell in cells]
        rows.append((region, *counts, words.count(one["data"]) if "data" in one else "–"))
    head = ("expected events", *(labels.get(name, name) for name in processes), "observed")
    return table(head, rows)


def _effective(results: Results, config: Results, labels: Mapping[str, str]) -> Html:
    least = (
        (config.get("bins") or {}).get("min_effective") if isinstance(config.get("bins"), Mapping) else None
    )
    stages = [results["sannt"][key]["histograms"] for key in STAGES]
    signals = signal_processes(results["sannt"])
    rows = []
    for channel in dict.fromkeys(name for stage in stages for name in stage):
        cells: list[Any] = []
        for stage in stages:
            smallest = _smallest(stage[channel], signals) if channel in stage else None
            low = smallest is not None and least is not None and smallest < least
            text = "–" if smallest is None else f"{smallest:,.0f}"
            cells.append(tag("span", text, class_="bad") if low else text)
        rows.append((labels.get(channel, channel), *cells))
    note = "(Σw)² / Σw² of the backgrounds in the bin with the fewest"
    if least is not None:
        note += f"; bins below {least:g} are merged"
    return table(("channel", *STAGES.values()), rows, note=note)


def _smallest(processes: Results, signals: Sequence[str]) -> float | None:
    backgrounds = [one for name, one in processes.items() if name not in signals]
    if not backgrounds:
        return None
    total, variance = (
        np.sum([numbers(one[key]) for one in backgrounds], axis=0) for key in ("nominal", "variance")
    )
    filled = (total > 0.0) & (variance > 0.0)
    return float(np.min(total[filled] ** 2 / variance[filled])) if filled.any() else None


def treatment(records: Sequence[Results]) -> Html:
    """What was done to the variations before the export."""
    if not records:
        return tag("p", "Nothing was smoothed, symmetrised, pruned or set to a floor.")
    kinds = Counter(str(one.get("what")) for one in records)
    counts = [(_TREATED.get(kind, kind), words.count(n)) for kind, n in kinds.most_common()]
    rows = [
        (
            one.get("parameter"),
            one.get("channel"),
            one.get("sample"),
            _TREATED.get(str(one.get("what")), one.get("what")),
            "–" if one.get("size") is None else f"{one['size']:.3g}".replace("-", "−"),
            sections.minus(str(one.get("detail") or "")),
        )
        for one in records
    ]
    head = ("parameter", "channel", "sample", "what", "size", "detail")
    return join(
        table(("what", "variations"), counts),
        details(f"All {len(records)} of them", table(head, rows, text=True)),
    )


def closure(found: Any) -> Html:
    """Closure of the yields: checks with a verdict, records or plain numbers."""
    if isinstance(found, Mapping):
        return table(("quantity", "value"), [(key, _cell(one)) for key, one in found.items()])
    if all("passed" in one and "reason" in one for one in found):
        return sections.checks(found)
    head = list(dict.fromkeys(key for one in found for key in one))
    return table(head, [[_cell(one.get(key)) for key in head] for one in found])


def _cell(one: Any) -> Html:
    if isinstance(one, bool):
        return badge(one, "passed", "FAILED")
    if isinstance(one, Mapping):
        return escape(", ".join(f"{key} {_cell(item)}" for key, item in one.items()))
    return escape(f"{one:.4g}".replace("-", "−") if isinstance(one, float) else one)
