"""`cabinetry_router`: cabinetry builds its templates from histograms in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boost_histogram as bh
import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import WorkspaceError, nearest, optional
from neyman.naming import Naming
from neyman.workspace.histograms import Histograms
from neyman.workspace.templates import Templates
from neyman.workspace.uhi import Binned, Flow, Histogram, binned


def cabinetry_router(
    channels: Histograms | Templates,
    *,
    observed: Mapping[str, ArrayLike | Histogram] | None = None,
    naming: Naming | str | None = None,
    flow: Flow = "ignore",
) -> Any:
    """Return a router that gives cabinetry the histograms of a coffea processor or a ROOT file.

    For ``cabinetry.templates.build(config, router=router)`` with a configuration whose regions, samples and systematics
    have the names of the channels, samples and variations; it reads no ntuples, and its ``Variable``, ``Filter`` and
    ``Weight`` have no effect. Then ``cabinetry.templates.postprocess`` and ``cabinetry.workspace.build`` as always.

    Parameters
    ----------
    channels
        Channel to sample to histogram, or `Templates` with their data and naming.
    observed
        Observed counts or histograms by channel, for the sample with ``Data: True``.
    naming
        Names on the systematic axis.
    flow
        What becomes of events beyond the edges, as for `from_hists`.

    Raises
    ------
    MissingExtraError
        When cabinetry is not installed.
    WorkspaceError
        While building, when a region, sample or systematic of the configuration has no histogram.
    """
    route = optional("cabinetry.route", "cabinetry")
    if isinstance(channels, Templates):
        observed = {**channels.observed, **(observed or {})}
        naming = channels.naming if naming is None else naming
        channels = channels.channels
    naming, data = Naming.of(naming), observed or {}
    router = route.Router()

    @router.register_template_builder()  # type: ignore[untyped-decorator]
    def from_memory(
        region: dict[str, Any], sample: dict[str, Any], systematic: dict[str, Any], template: str | None
    ) -> bh.Histogram[Any]:
        where = f"region {region['Name']}, sample {sample['Name']}"
        samples = _named(channels, region["Name"], "region", where)
        if sample.get("Data", False):
            return _counts(
                _named(data, region["Name"], "data in region", where), samples, naming, flow, where
            )
        one = binned(_named(samples, sample["Name"], "sample", where), naming, where)
        category = naming.nominal
        if template is not None:
            category = systematic["Name"] + (naming.up if template == "Up" else naming.down)
        _named(one.values, category, "variation", where)
        return _histogram(one, category, flow, where)

    return router


def _named(mapping: Mapping[str, Any], name: str, what: str, where: str) -> Any:
    if name not in mapping:
        raise WorkspaceError(
            f"there is no histogram for {what} {name!r} of the cabinetry configuration",
            where=where,
            fix=f"nearest: {nearest(name, mapping)}",
        )
    return mapping[name]


def _counts(
    given: ArrayLike | Histogram, samples: Mapping[str, Histogram], naming: Naming, flow: Flow, where: str
) -> bh.Histogram[Any]:
    if hasattr(given, "values"):
        one = binned(given, naming, where)
        counts = one.values[one.main(naming, where)]
        return _histogram(Binned(one.edges, {"data": counts}, {"data": counts}), "data", flow, where)
    counts = np.pad(np.asarray(given, dtype=np.float64), 1)
    edges = binned(next(iter(samples.values())), naming, where).edges
    if len(counts) != len(edges) + 1:
        raise WorkspaceError(
            f"{len(counts) - 2} counts are observed", where=where, expected=f"{len(edges) - 1}"
        )
    return _histogram(Binned(edges, {"data": counts}, {"data": counts}), "data", flow, where)


def _histogram(one: Binned, category: str, flow: Flow, where: str) -> bh.Histogram[Any]:
    values, variances = one.inside(category, flow)
    if variances is None:
        raise WorkspaceError(
            "the histogram does not know its variances", where=where, fix="fill it with Weight storage"
        )
    made = bh.Histogram(bh.axis.Variable(one.edges.tolist()), storage=bh.storage.Weight())
    made[...] = np.stack([values, variances], axis=-1)
    return made
