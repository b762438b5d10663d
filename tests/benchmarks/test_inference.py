"""Fits, impacts and toys beside pyhf and cabinetry in the same run."""

from __future__ import annotations

import json

import numpy as np
import pytest

import neyman as ny

pytestmark = pytest.mark.benchmark


@pytest.fixture
def ttbar(shared_data):
    return json.loads((shared_data / "pyhf" / "atlas_ttbar_ljets_xsec.json").read_text())


def test_fit_with_hesse(shape_model, record, seconds, show, pyhf_backend, repository, ttbar):
    """Fits with errors of the same documents by pyhf (numpy, minuit) and neyman; and the unbinned fit alone."""
    folder = repository / "workspaces" / "htautau" / "workspace"
    documents = {
        "12 channels x 8 bins, 86 histosys": shape_model(),
        "ATLAS ttbar l+jets": ttbar,
        "htautau binned": json.loads((folder / "binned.json").read_text()),
    }
    rows = []
    for name, spec in documents.items():
        likelihood = ny.Likelihood.from_pyhf(spec)
        ours = ny.fit(likelihood)
        own = seconds(lambda likelihood=likelihood: ny.fit(likelihood), repeat=5)
        with pyhf_backend("numpy", "minuit") as pyhf:
            workspace = pyhf.Workspace(spec)
            model = workspace.model()
            data = workspace.data(model)
            theirs = []
            peer = seconds(
                lambda m=model, d=data, out=theirs: out.append(
                    pyhf.infer.mle.fit(d, m, return_uncertainties=True, return_fitted_val=True)
                ),
                repeat=1,
            )
        assert ours.valid
        assert ours.fval < float(theirs[0][1]) + 1e-6
        rows.append(
            {
                "fit": name,
                "parameters": len(likelihood.names),
                "neyman s": own,
                "pyhf numpy+minuit s": peer,
                "ratio": peer / own,
                "-2 ln L, neyman - pyhf": ours.fval - float(theirs[0][1]),
            }
        )
    unbinned = ny.Likelihood.load(folder)
    rows.append(
        {
            "fit": "htautau unbinned + binned",
            "parameters": len(unbinned.names),
            "neyman s": seconds(lambda: ny.fit(unbinned)),
        }
    )
    show("fits with HESSE", rows)
    record("fit", {"rows": rows}, "pyhf", "iminuit")


def test_fit_without_hesse(shape_model, record, seconds, show, pyhf_backend):
    """The model of 183 parameters against pyhf's jax backend with scipy, after its compilation."""
    pytest.importorskip("jax")
    spec = shape_model()
    likelihood = ny.Likelihood.from_pyhf(spec)
    ours = ny.fit(likelihood, hesse=False)
    own = seconds(lambda: ny.fit(likelihood, hesse=False), repeat=5)
    newton = seconds(lambda: ny.fit(likelihood, hesse=False, migrad=False), repeat=5)
    with pyhf_backend("jax", "scipy") as pyhf:
        workspace = pyhf.Workspace(spec)
        model = workspace.model()
        data = workspace.data(model)
        theirs = pyhf.infer.mle.fit(data, model, return_fitted_val=True)
        assert ours.fval < float(theirs[1]) + 1e-6
        peer = seconds(lambda: pyhf.infer.mle.fit(data, model), repeat=5)
    rows = [
        {"fit": "neyman", "s": own, "ratio": peer / own, "-2 ln L": ours.fval},
        {"fit": "neyman, Newton steps alone", "s": newton, "ratio": peer / newton, "-2 ln L": ours.fval},
        {"fit": "pyhf jax + scipy, warm", "s": peer, "ratio": 1.0, "-2 ln L": float(theirs[1])},
    ]
    show("183 parameters, without HESSE", rows)
    record("fit_without_hesse", {"rows": rows}, "pyhf", "jax", "scipy")


def test_impacts(record, seconds, show, ttbar):
    """All global-observable impacts of ATLAS ttbar against cabinetry, whose ranking makes four fits for each nuisance
    parameter; two of them are timed."""
    cabinetry = pytest.importorskip("cabinetry")
    import pyhf

    likelihood = ny.Likelihood.from_pyhf(ttbar)
    poi = ttbar["measurements"][0]["config"]["poi"]
    best = ny.fit(likelihood)
    found = ny.impacts(likelihood, poi, best=best)
    assert all(impact.valid for impact in found.impacts)
    own = seconds(lambda: ny.impacts(likelihood, poi, best=best), repeat=2)
    workspace = pyhf.Workspace(ttbar)
    model = workspace.model()
    data = workspace.data(model)
    names = model.config.par_names
    fixed, start = model.config.suggested_fixed(), model.config.suggested_init()
    n_ranked = sum(not f for f in fixed) - 1
    times = []
    for name in [impact.name for impact in found.impacts[:2]]:
        k = names.index(name)
        held = [f or i == k for i, f in enumerate(fixed)]
        inits = [
            best.values[n] + best.errors[n] if i == k else s
            for i, (n, s) in enumerate(zip(names, start, strict=True))
        ]
        times.append(
            seconds(lambda i=inits, h=held: cabinetry.fit.fit(model, data, init_pars=i, fix_pars=h), repeat=1)
        )
    peer = 4 * n_ranked * float(np.mean(times))
    rows = [
        {
            "impacts": "neyman, global observables",
            "parameters": len(found.impacts),
            "s": own,
            "ratio": peer / own,
        },
        {
            "impacts": "cabinetry ranking, from two of its fits",
            "parameters": n_ranked,
            "s": peer,
            "ratio": 1.0,
        },
    ]
    show("impacts of ATLAS ttbar l+jets", rows)
    record("impacts", {"rows": rows, "cabinetry_fit_s": times}, "pyhf", "cabinetry", "iminuit")


def test_toys(shape_model, record, seconds, show, pyhf_backend):
    """10,000 toys of 30 parameters and 40 bins, drawn and fitted with errors; pyhf from 50 of them."""
    spec = shape_model(channels=5, bins=8, systematics=29, staterror=False)
    likelihood = ny.Likelihood.from_pyhf(spec)
    drawn = ny.toys(likelihood, 10_000, seed=1)
    ny.fit_toys(likelihood, ny.toys(likelihood, 100, seed=2))
    out = []
    own = seconds(lambda: out.append(ny.fit_toys(likelihood, drawn)), repeat=2)
    fits = out[-1]
    with pyhf_backend("numpy", "minuit") as pyhf:
        model = pyhf.Workspace(spec).model()
        order = [likelihood.index(name) for name in model.config.par_names]
        sets = [
            np.concatenate([toy.terms[0].numpy(), list(toy.global_observables.values())])
            for toy in (drawn[i] for i in range(50))
        ]
        results = []
        peer = seconds(
            lambda: results.extend(
                pyhf.infer.mle.fit(one, model, return_uncertainties=True, return_fitted_val=True)
                for one in sets
            ),
            repeat=1,
        )
    shift = max(
        float(np.max(np.abs(np.asarray(r[0])[:, 0] - fits.values[i][order]) / fits.errors[i][order]))
        for i, r in enumerate(results)
    )
    lower = [float(r[1]) - fits.fvals[i] for i, r in enumerate(results)]
    assert fits.valid.all()
    assert min(lower) > -1e-6
    rows = [
        {"toy fits": "neyman, 10,000", "s": own, "ms a toy": own / 10, "ratio": 200.0 * peer / own},
        {"toy fits": "pyhf numpy+minuit, from 50", "s": 200.0 * peer, "ms a toy": 20.0 * peer, "ratio": 1.0},
    ]
    show("toys of 30 parameters and 40 bins", rows)
    record(
        "toys",
        {
            "rows": rows,
            "valid": int(fits.valid.sum()),
            "refitted_by_migrad": len(fits.refitted),
            "lower_minima_met": len(fits.lower),
            "largest_difference_in_errors": shift,
            "pyhf_minus_neyman_2nll": [min(lower), max(lower)],
        },
        "pyhf",
        "iminuit",
    )
