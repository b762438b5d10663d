"""The parts of the report: numbers of the results as sentences and tables."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from neyman.plots import words
from neyman.plots.distributions import SUSPICIOUS
from neyman.plots.markup import Html, badge, bullets, details, escape, join, table, tag
from neyman.plots.style import symbol

Results = Mapping[str, Any]

_KINDS = {"single": "a", "classifier": "b", "unbinned": "c"}
_COLUMNS = (
    ("stat", "statistical only"),
    ("syst", "with systematics"),
    ("with_simulation", "and simulation statistics"),
)
_PACKAGES = (
    "neyman",
    "torch",
    "iminuit",
    "pyhf",
    "coffea",
    "uproot",
    "awkward",
    "numpy",
    "scipy",
    "matplotlib",
)


def headline(config: Results, results: Results) -> Html:
    """Title, signal strength, and whatever a reader must be warned of."""
    analysis = config["analysis"]
    poi = analysis["poi"]
    observed, expected = results["observed"]["unbinned"], results["expected"]
    cards = (
        (f"{symbol(poi)}, pseudo-data", words.interval(observed, poi)),
        ("expected uncertainty", words.spread(expected, poi)),
        ("integrated luminosity", f"{analysis['luminosity']:g} fb⁻¹"),
        ("events in the signal region", words.count(results["workspace"]["n_data"])),
    )
    boxes = [
        tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), class_="card")
        for name, value in cards
    ]
    warnings = bullets(_warnings(results))
    return join(
        tag("h1", analysis["title"] or analysis["name"]),
        tag("p", "Unbinned neural likelihood fit and its binned alternatives.", class_="soft"),
        tag("div", *boxes, class_="cards"),
        tag(
            "p",
            "The data are one pseudo-experiment drawn from the simulated events that were held out of the training "
            f"(seed {analysis['seed']}). Intervals of {symbol(poi)} are MINOS intervals at 68%.",
            class_="small soft",
        ),
        tag("div", tag("strong", "Read with care"), warnings, class_="warning") if warnings else "",
    )


def _warnings(results: Results) -> list[str]:
    fits = {
        "expected fit": results["expected"],
        **{f"fit to ({_KINDS.get(k, k)})": f for k, f in results["observed"].items()},
    }
    out = [f"The {name} is not valid." for name, fit in fits.items() if not fit["valid"]]
    out += [
        f"A fit behind “{row['label']}” is not valid." for row in results["comparison"] if not row["valid"]
    ]
    for kind, scans in results["profiles"].items():
        for name, scan in scans.items():
            if failed := len(scan["valid"]) - sum(scan["valid"]):
                out.append(
                    f"{failed} of {len(scan['valid'])} fits of the {kind} profile of {symbol(name)} are not valid."
                )
    unsure = [impact["name"] for impact in results["impacts"]["impacts"] if not impact["valid"]]
    out += [f"The impact of {name} rests on a fit that is not valid." for name in unsure]
    if not results["simulation_check"]["valid"]:
        out.append("The fit of the simulation itself is not valid.")
    elif not _compatible(results["simulation_check"]):
        out.append("The fit of the simulation itself does not return the nominal value.")
    out += [f"Check failed: {c['name']} ({c['reason']})." for c in results["checks"] if not c["passed"]]
    out += [
        f"Workspace check failed: {c['name']} ({c['detail']})."
        for c in results["validation"]
        if not c["passed"]
    ]
    return out


def comparison(results: Results) -> Html:
    """Table of the expected uncertainties, and the verdict."""
    rows = results["comparison"]
    first = rows[0]
    body = []
    for row in rows:
        cells = []
        for key, _ in _COLUMNS:
            value, base = row[key], first[key]
            gain = (
                ""
                if row is first or not value or not base
                else tag("span", words.change(value, base), class_="small")
            )
            cells.append(join("–" if value is None else f"{value:.4f}", gain))
        best = row["syst"] is not None and row["syst"] == min(
            r["syst"] for r in rows if r["syst"] is not None
        )
        name = tag(
            "span", f"({_KINDS.get(row['kind'], '?')}) {row['label']}", class_="best" if best else None
        )
        body.append((name, *cells, words.minos(row["minos"]), badge(row["valid"])))
    head = ("description", *(name for _, name in _COLUMNS), "MINOS, with systematics", "fits")
    note = "Expected uncertainty of the signal strength on Asimov data; below it the change relative to (a)."
    return join(
        tag("p", verdict(rows, results["impacts"]["poi"]), class_="verdict"), table(head, body, note=note)
    )


def verdict(rows: Sequence[Results], poi: str) -> Html:
    """Say whether the unbinned description beats the binned ones, by the numbers alone.

    Uncertainties that agree within 0.5 % count as equal.
    """
    by_kind = {row["kind"]: row for row in rows}
    unbinned = by_kind["unbinned"]
    others = [row for kind, row in by_kind.items() if kind != "unbinned"]
    if any(row[key] is None for row in rows for key in ("syst", "with_simulation")):
        return escape("An uncertainty is missing, so the descriptions cannot be compared.")

    def beaten(key: str) -> list[Results]:
        return [row for row in others if unbinned[key] < 0.995 * row[key]]

    names = {id(row): f"({_KINDS.get(row['kind'], '?')})" for row in rows}
    comparisons = " and ".join(
        f"{_relation(unbinned['syst'], row['syst'])} the {row['syst']:.3f} of {names[id(row)]}"
        for row in others
    )
    won, won_with_noise = beaten("syst"), beaten("with_simulation")
    text = [
        tag("strong", _outcome(won, others, names)),
        f" With systematics it expects Δ{symbol(poi)} = {unbinned['syst']:.3f}: {comparisons}.",
    ]
    if won_with_noise != won:
        text.append(
            f" With the statistics of the simulation included: {_outcome(won_with_noise, others, names)}"
        )
    else:
        text.append(" The statistics of the simulation do not change this.")
    if not all(row["valid"] for row in rows):
        text.append(tag("strong", " At least one of these fits is not valid.", class_="bad"))
    return join(*text)


def _outcome(won: Sequence[Results], others: Sequence[Results], names: Mapping[int, str]) -> str:
    lost = [names[id(row)] for row in others if row not in won]
    beaten = [names[id(row)] for row in won]
    if not lost:
        return f"(c), the unbinned likelihood, beats {' and '.join(beaten)}."
    if not beaten:
        return f"(c), the unbinned likelihood, beats neither {' nor '.join(lost)}."
    return f"(c), the unbinned likelihood, beats {' and '.join(beaten)} but not {' and '.join(lost)}."


def _relation(value: float, other: float) -> str:
    change = 100.0 * (value / other - 1.0)
    if abs(change) < 0.5:
        return "equal within 0.5% to"
    return f"{abs(change):.1f}% {'smaller than' if change < 0 else 'larger than'}"


def yields(config: Results, results: Results) -> Html:
    """Expected events of each process, and their change with each variation."""
    table_of = results["workspace"]["yields"]
    labels = _sample_labels(config)
    varied = [name for name in next(iter(table_of.values())) if name != "nominal"]
    total = {name: sum(y[name] for y in table_of.values()) for name in ("nominal", *varied)}
    rows = [
        (labels.get(name, name), f"{y['nominal']:,.1f}", *(_variation(y[v], y["nominal"]) for v in varied))
        for name, y in (*table_of.items(), (tag("strong", "total"), total))
    ]
    note = (
        "Expected events in the signal region. The pseudo-data hold "
        f"{words.count(results['workspace']['n_data'])} events, "
        f"the reference sample of the likelihood {words.count(results['workspace']['n_reference'])} simulated ones."
    )
    return table(("process", "nominal", *varied), rows, note=note)


def _variation(value: float, nominal: float) -> Html:
    return join(f"{value:,.1f}", tag("span", words.change(value, nominal), class_="small"))


def fits(config: Results, results: Results) -> Html:
    """Quality of every fit, and its parameters."""
    poi = config["analysis"]["poi"]
    columns = {"expected (c)": results["expected"]}
    columns |= {f"observed ({_KINDS.get(kind, kind)})": fit for kind, fit in results["observed"].items()}
    quality = [
        (
            name,
            badge(fit["valid"]),
            f"{fit['fval']:.4f}",
            f"{fit['edm']:.1e}",
            fit["n_value"] + fit["n_gradient"] + fit["n_hessian"],
            ", ".join(fit["at_bounds"]) or "none",
        )
        for name, fit in columns.items()
    ]
    notes = [join(tag("strong", f"{n}: "), m) for n, fit in columns.items() for m in fit["messages"]]
    names = list(dict.fromkeys(name for fit in columns.values() for name in fit["names"]))
    main = sorted((n for n in names if not n.startswith(("staterror_", "spread_"))), key=lambda n: n != poi)
    rest = [n for n in names if n.startswith(("staterror_", "spread_"))]

    def parameters(chosen: Sequence[str]) -> Html:
        rows = [(symbol(n), *(_parameter(fit, n) for fit in columns.values())) for n in chosen]
        return table(("parameter", *columns), rows)

    head = ("fit", "minimum", "−2 ln L", "EDM", "evaluations", "parameters at a bound")
    return join(
        table(head, quality),
        bullets(notes),
        tag("h3", "Parameters"),
        parameters(main),
        details(f"Statistics of the simulation: {len(rest)} more", parameters(rest)) if rest else "",
    )


def _parameter(fit: Results, name: str) -> Html:
    if name not in fit["values"]:
        return escape("")
    if name in fit["fixed"]:
        return escape(f"{fit['values'][name]:.4g} fixed")
    if name in fit["minos"]:
        return escape(words.interval(fit, name))
    value, error = fit["values"][name], fit["errors"][name]
    bound = tag("span", "at bound", class_="bad small") if name in fit["at_bounds"] else ""
    return join(words.rounded(value, error), f" ± {words.rounded(error, error)}" if error else "", bound)


def impacts(results: Results) -> Html:
    """Impacts as a table."""
    rows = [
        (
            impact["name"],
            words.signed(impact["up"]),
            words.signed(impact["down"]),
            "free" if impact["pull"] is None else f"{impact['pull']:.2f}".replace("-", "−"),
            "free" if impact["constraint"] is None else f"{impact['constraint']:.2f}",
            impact["kind"].replace("_", " "),
            badge(impact["valid"]),
        )
        for impact in results["impacts"]["impacts"]
    ]
    poi = symbol(results["impacts"]["poi"])
    head = ("nuisance parameter", f"Δ{poi} up", f"Δ{poi} down", "pull", "constraint", "shifted", "fits")
    return details("Impacts as numbers", table(head, rows))


def checks(found: Sequence[Results]) -> Html:
    """Table of checks with their verdicts, failures first."""
    rows = [
        (
            minus(one["name"]),
            tag("span", badge(one["passed"], "passed", "FAILED"), style="white-space: nowrap"),
            minus(one["reason"][:1].upper() + one["reason"][1:]),
        )
        for one in sorted(found, key=lambda one: one["passed"])
    ]
    return join(
        tag("p", "A check fails where a deviation is both significant and larger than its tolerance."),
        table(("check", "result", "figures"), rows, text=True),
    )


def minus(text: str) -> str:
    """Return the text with the sign of negative numbers in place of a hyphen."""
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", text)


def closure(config: Results, results: Results) -> Html:
    """Distances of the closure test, the worst marked."""
    closures = results["closure"]
    labels = _sample_labels(config)
    tested = [c for c in closures if c["p_value"] is not None]
    worst = min(tested, key=lambda c: c["p_value"], default=None)
    processes = list(dict.fromkeys(c["process"] for c in closures))
    cells = {(c["feature"], c["process"]): c for c in closures}

    def cell(c: Results | None) -> Html:
        if c is None:
            return escape("")
        if c["p_value"] is None:
            return escape("too few events")
        distance = f"{c['chi2']:.1f} / {c['n_bins']}, p = {c['p_value']:.2g}"
        return tag(
            "span",
            f"worst: {distance}" if c is worst else distance,
            class_="bad" if c["p_value"] < SUSPICIOUS else None,
        )

    rows = [
        (feature, *(cell(cells.get((feature, process))) for process in processes))
        for feature in dict.fromkeys(c["feature"] for c in closures)
    ]
    sentence = "No comparison has enough events."
    if worst is not None:
        low = sum(c["p_value"] < SUSPICIOUS for c in tested)
        sentence = (
            f"{low} of {len(tested)} comparisons have a p-value below {SUSPICIOUS:g}; "
            f"{SUSPICIOUS * len(tested):.1f} are expected by chance. "
            f"The worst is {worst['feature']} of {labels.get(worst['process'], worst['process'])}, "
            f"p = {worst['p_value']:.2g}."
        )
    return join(
        tag(
            "p",
            "Held-out reference events, reweighted by the learned ratio of a process, against held-out events of that "
            "process. ",
            sentence,
        ),
        table(
            ("feature", *(labels.get(p, p) for p in processes)), rows, note="χ² / number of bins, and p-value"
        ),
    )


def closure_systematics(config: Results, results: Results) -> Html:
    """Closure of the ratios at +-1 standard deviation, a line a variation and process."""
    labels = _sample_labels(config)
    groups: dict[tuple[str, str], list[Results]] = {}
    for one in results["closure_systematics"]:
        if one["p_value"] is not None:
            groups.setdefault((one["variation"], one["process"]), []).append(one)
    rows = []
    for (variation, process), closures in groups.items():
        worst = min(closures, key=lambda c: c["p_value"])
        low = sum(c["p_value"] < SUSPICIOUS for c in closures)
        text = f"{worst['feature']}: χ² {worst['chi2']:.1f} / {worst['n_bins']}, p = {worst['p_value']:.2g}"
        rows.append(
            (
                variation,
                labels.get(process, process),
                f"{low} of {len(closures)}",
                tag("span", text, class_="bad" if worst["p_value"] < SUSPICIOUS / len(closures) else None),
            )
        )
    if not rows:
        return escape("")
    sentence = (
        "The same test at one standard deviation of every nuisance parameter that shifts events: the reference, "
        "reweighted by the ratio with its systematic part, against the shifted events. Marked where the worst "
        f"feature is less probable than {SUSPICIOUS:g} after the number of features."
    )
    head = ("variation", "process", f"features with p < {SUSPICIOUS:g}", "worst")
    return join(tag("p", sentence), table(head, rows))


def simulation(config: Results, results: Results) -> Html:
    """The learned likelihood fitted to the simulation that it was learned for."""
    check, poi = results["simulation_check"], symbol(config["analysis"]["poi"])
    shift, noise = check["value"] - check["nominal"], check["noise"]
    good = _compatible(check)
    rows = [
        ("fitted value", f"{check['value']:.4f}"),
        ("nominal value", f"{check['nominal']:g}"),
        ("difference", words.signed(shift)),
        ("noise of the simulation", f"{noise:.4f}"),
        ("uncertainty at the luminosity of the data", f"{check['error']:.4f}"),
        (
            "uncertainty that the likelihood claims (Asimov data, simulation statistics free)",
            f"{check['claimed']:.4f}",
        ),
        ("spread of the estimate over data drawn from the simulation", f"{check['spread']:.4f}"),
    ]
    meaning = (
        "compatible with ratios without bias" if good else "not compatible: the learned ratios are biased"
    )
    sentence = (
        f"The fit of the held-out simulated events themselves gives {poi} = {check['value']:.3f}. It differs from the "
        f"nominal value by {abs(shift) / noise:.1f} times the statistical noise of the simulation ({noise:.3f}) and by "
        f"{100 * abs(shift) / check['error']:.0f}% of the uncertainty of the measurement: {meaning}."
    )
    excess = check["spread"] / check["claimed"] - 1.0
    honest = (
        f" Over data drawn from the simulation the estimate would spread by {check['spread']:.3f}, "
        f"{100 * abs(excess):.1f}% {'more' if excess > 0.0 else 'less'} than the {check['claimed']:.3f} that the "
        "likelihood claims: the price of imperfect ratios."
    )
    limit = f" A bias below {2.0 * noise:.2f} cannot be seen with this much simulation."
    return join(
        tag("p", badge(good, "compatible", "NOT COMPATIBLE"), " ", sentence, limit, honest),
        tag("p", badge(False), " The fit behind it failed.") if not check["valid"] else "",
        table(("quantity", "value"), rows),
    )


def _compatible(check: Results) -> bool:
    return bool(check["valid"] and abs(check["value"] - check["nominal"]) <= 2.0 * check["noise"])


def validation(results: Results) -> Html:
    """Checks of the written workspace, failures first."""
    checks = sorted(results["validation"], key=lambda c: c["passed"])
    passed = sum(c["passed"] for c in checks)
    rows = table(
        ("check", "result", "detail"),
        [(c["name"], badge(c["passed"], "passed", "FAILED"), c["detail"]) for c in checks],
        text=True,
    )
    sentence = tag(
        "p",
        badge(passed == len(checks), "complete", "INCOMPLETE"),
        f" {passed} of {len(checks)} checks passed.",
    )
    return join(sentence, rows if passed < len(checks) else details("All checks", rows))


def reproduction(config: Results, results: Results) -> Html:
    """Command, configuration, times and versions."""
    versions = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    times = results.get("steps") or {}
    spent = [(name, f"{seconds:.1f} s") for name, seconds in times.items()]
    return join(
        tag("p", "With the configuration below as ", tag("code", "analysis.toml"), " beside the processor:"),
        tag("pre", f"pip install 'neyman[coffea,plot]=={_version()}'\nneyman run analysis.toml"),
        tag(
            "p",
            f"Everything random follows from seed {config['analysis']['seed']}; steps that are done are kept, so the "
            "same command continues a run that was stopped.",
        ),
        details("Configuration", tag("pre", json.dumps(config, indent=2, ensure_ascii=False))),
        join(tag("h3", "Time of each step"), table(("step", "time"), spent)) if spent else "",
        tag("h3", "Versions"),
        table(("package", "version"), versions, text=True),
    )


def _version() -> str:
    from neyman import __version__

    return __version__


def _sample_labels(config: Results) -> dict[str, str]:
    return {s["name"]: s["label"] or s["name"] for s in config["samples"]}
