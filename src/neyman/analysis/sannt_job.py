"""`train_sannt`: a systematics-aware network and its pyhf workspace from flat files, step by step, resumable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neyman.analysis.run import Reporter, Silent
from neyman.analysis.sannt_config import SanntConfig, load_sannt_config
from neyman.analysis.sannt_events import SanntEvents, SelectedEvents
from neyman.analysis.sannt_fits import (
    compare_uncertainties,
    observed_fit,
    sannt_workspace,
)
from neyman.analysis.sannt_model import (
    bare,
    closure,
    histograms,
    normalisations,
    numbers,
    variations,
)
from neyman.analysis.simulation import derive
from neyman.analysis.steps import Stamp, Steps, code_digest, noted
from neyman.files import digest, jsonable, read_json, write_json
from neyman.sannt import SANNT, train
from neyman.workspace import Draft, Treated, read

STAGES = {"pretrained": "cennt", "trained": "sannt"}
CENNT = "alternatives/cennt.json"
_EVENTS, _TRAINING = ".neyman/events", ".neyman/training"
_OWN = tuple(
    f"analysis/{name}.py"
    for name in ("inputs", "sannt_config", "sannt_sections", "sannt_events", "sannt_reading")
)
_MODEL = tuple(f"analysis/{name}.py" for name in ("sannt_model", "sannt_fits", "sannt_job"))


@dataclass(frozen=True)
class TrainedSannt:
    """A finished job.

    Parameters
    ----------
    config
        The configuration.
    output
        Folder with everything: ``workspace/``, ``results.json``, ``report/``.
    results
        The results document.
    stamps
        The steps with their times.
    """

    config: SanntConfig
    output: Path
    results: dict[str, Any]
    stamps: dict[str, Stamp]

    @property
    def invalid(self) -> list[str]:
        """The fits that are not valid."""
        results = self.results
        found = [f"expected, {name}" for name, one in results["fits"].items() if not one["valid"]]
        observed = {"observed": results["observed"], "observed, cennt": results["observed_cennt"]}
        return found + [name for name, one in observed.items() if one is not None and not one["valid"]]


def train_sannt(
    config: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> TrainedSannt:
    """Train a network for a measurement, export its histograms and fit them; finished steps are kept.

    ``workspace/`` holds the pyhf workspace ``binned.json`` of the trained network's bins and the control regions,
    the networks, and the same of the cross-entropy network under ``alternatives``. What the control regions say of the
    parameters is part of the uncertainty that the training minimises.

    Parameters
    ----------
    config
        The ``sannt.toml``.
    output
        Folder for everything that is made; ``out/NAME`` if not given.
    data
        Folder or URL to which the files are relative, instead of that of the TOML file.
    reporter
        Told about progress.

    Raises
    ------
    NeymanError
        Whatever is wrong with the input, naming file, key, column, region or event.
    """
    file = Path(config)
    settings = load_sannt_config(file)
    inputs = SanntEvents.find(settings, file.parent if data is None else data)
    reporter = reporter or Silent()
    name = settings.measurement.name
    steps = Steps(Path("out") / name if output is None else Path(output), reporter.step)
    with steps.locked():
        return _Job(settings, inputs, steps, reporter).run()


class _Job:
    def __init__(self, config: SanntConfig, inputs: SanntEvents, steps: Steps, reporter: Reporter) -> None:
        self._config, self._inputs = config, inputs
        self._steps, self._reporter = steps, reporter

    def run(self) -> TrainedSannt:
        events, noted_events = self._events()
        trained = self._train(events)
        workspace = self._workspace(events, trained)
        fitted = self._fit(workspace)
        results: dict[str, Any] = {
            "sannt": trained.summary["result"],
            **fitted.summary,
            "warnings": list(
                dict.fromkeys(
                    [*noted_events, *trained.summary["warnings"], *_lost(workspace.summary["closure"])]
                )
            ),
            "treatment": workspace.summary["treatment"],
            "closure of the yields": workspace.summary["closure"],
            "events": trained.summary["events"],
            "regions": self._steps.stamps["events"].summary["regions"],
        }
        self._report(fitted, results)
        results["steps"] = self._seconds()
        write_json(self._steps.output / "results.json", results)
        return TrainedSannt(self._config, self._steps.output, results, self._steps.stamps)

    def _events(self) -> tuple[SelectedEvents, list[str]]:
        def work(folder: Path) -> dict[str, Any]:
            with noted() as notes:
                found = self._inputs.write(folder, lambda k, n: self._reporter.progress("events", k, n))
            return {"regions": found, "warnings": notes}

        key = (*self._inputs.key(), code_digest("events", "workspace", *_OWN))
        stamp = self._steps.do("events", _EVENTS, key, work)
        selected = SelectedEvents(self._config, self._steps.output / _EVENTS, stamp.summary["regions"])
        return selected, stamp.summary["warnings"]

    def _train(self, events: SelectedEvents) -> Stamp:
        config = self._config
        used = {
            "network", "pretraining", "settings", "bins", "filling", "ensemble", "folds", "direction", "batch", "noise",
            "constraint", "keep_classes",
            "classes", "samples", "estimates", "measurement", "systematics", "regions",
        }  # fmt: skip
        key = (
            self._steps.stamps["events"].digest,
            config.model_dump(mode="json", include=used),
            code_digest("networks", "events", "training", "sannt", *_MODEL),
        )
        total = config.folds * (
            config.pretraining.steps + (0 if config.filling.kind == "scan" else config.settings.steps)
        )

        # Named after the training: that of a job with other settings must not stop this one.
        checkpoints = self._steps.scratch(f"checkpoints.{digest(key)[:12]}")
        for other in checkpoints.parent.glob("checkpoints.*"):
            if other != checkpoints:
                shutil.rmtree(other)

        def work(folder: Path) -> dict[str, Any]:
            folder.mkdir()
            with noted() as notes:
                result = self._trained(
                    events, checkpoints, lambda k: self._reporter.progress("train", k, total)
                )
            data = events.data()
            counts: dict[str, Any] = {}
            for stage, name in STAGES.items():
                classifier = getattr(result, stage).classifier
                classifier.save(folder / name)
                counts[stage] = None if data is None else classifier.contents(data)
            return {
                "result": jsonable(result),
                "counts": jsonable(counts),
                "events": numbers(config, events),
                "warnings": list(dict.fromkeys([*notes, *result.warnings])),
            }

        return self._steps.do("train", _TRAINING, key, work)

    def _trained(self, events: SelectedEvents, checkpoints: Path, progress: Any) -> SANNT:
        config = self._config
        tables = {name: bare(events.table(name)) for name in config.processes}
        classes = config.classes
        if classes is not None:
            # The samples of one strength are one process.
            classes = {
                name: tuple(p for p, parts in config.processes.items() if set(parts) <= set(listed))
                for name, listed in classes.items()
            }
        return train(
            config.network,
            {name: tables[name] for name in config.signals},
            {name: table for name, table in tables.items() if name not in config.signals},
            variations=[*normalisations(config), *variations(config, events, tables)],
            control=self._control(events),
            region=config.region,
            classes=classes,
            bins=config.bins.made(),
            learn_edges=config.bins.learn_edges,
            filling=config.filling.made(),
            pretraining=config.pretraining,
            settings=config.settings,
            mc_stat=config.bins.mc_stat,
            min_effective=config.bins.min_effective,
            direction=config.direction,
            batch=config.batch,
            folds=config.folds,
            ensemble=config.ensemble,
            seed=self._seed("training"),
            noise=config.noise,
            constraint=config.constraint if config.keep_classes else None,
            checkpoints=checkpoints,
            progress=progress,
        )

    def _control(self, events: SelectedEvents) -> dict[str, Any]:
        """Histograms of the control regions."""
        return {name: events.histograms(name) for name in self._config.regions if name != self._config.region}

    def _workspace(self, events: SelectedEvents, trained: Stamp) -> Stamp:
        config = self._config
        key = (
            trained.digest,
            config.model_dump(mode="json", include={"export", "fit", "bins", "regions", "measurement"}),
            code_digest("workspace", *_OWN, *_MODEL),
        )

        def work(folder: Path) -> dict[str, Any]:
            control = self._control(events)
            observed = {name: events.counts(name) for name in control}
            specs: dict[str, Any] = {}
            treated: list[Treated] = []

            for stage in STAGES:
                found = histograms(trained.summary["result"][stage]["histograms"])
                options: dict[str, Any] = {
                    "mc_stat": config.bins.mc_stat,
                    "measurement": config.measurement.name,
                    "bounds": config.fit.bounds,
                    "treatment": config.export,
                }
                specs[stage] = sannt_workspace(
                    found,
                    config.signals,
                    normalisations(config),
                    control=control,
                    observed=_present({**(trained.summary["counts"][stage] or {}), **observed}),
                    report=treated if stage == "trained" else None,
                    **options,
                )
            source = self._steps.output / _TRAINING
            files = {f"networks/{path.name}": path for path in sorted((source / "sannt").iterdir())}
            files |= {f"alternatives/{path.name}": path for path in sorted((source / "cennt").iterdir())}
            alternative = self._steps.scratch("cennt.json")
            write_json(alternative, specs["pretrained"])
            Draft(
                binned=specs["trained"],
                files={**files, CENNT: alternative},
                seed=config.measurement.seed,
                configuration=config.model_dump(mode="json"),
            ).write(folder)
            alternative.unlink()
            return {
                "treatment": [record.to_dict() for record in treated],
                "closure": closure(config, specs["trained"], events.summary, treated),
            }

        return self._steps.do("workspace", "workspace", key, work)

    def _fit(self, workspace: Stamp) -> Stamp:
        signals, folder = self._config.signals, self._steps.output / "workspace"
        trained = self._steps.stamps["train"].summary["result"]
        key = (
            workspace.digest,
            code_digest(
                "workspace", "likelihood", "inference", "analysis/sannt_fits.py", "analysis/sannt_job.py"
            ),
        )

        def work(part: Path) -> dict[str, Any]:
            specs = {"trained": read(folder).binned or {}, "pretrained": read_json(folder / CENNT)}
            fits = {}
            for k, stage in enumerate(STAGES):
                self._reporter.progress("fit", k, len(STAGES))
                fisher = {
                    name: one["total"] for name, one in trained[stage]["uncertainty"]["signals"].items()
                }
                fits[stage] = compare_uncertainties(fisher, specs[stage], signals)
            results: dict[str, Any] = {"fits": fits}
            for name, stage in (("observed", "trained"), ("observed_cennt", "pretrained")):
                results[name] = None
                if self._config.data is not None:
                    results[name] = observed_fit(specs[stage], signals)
            out: dict[str, Any] = jsonable(results)
            write_json(part, out)
            return out

        return self._steps.do("fit", ".neyman/fits.json", key, work)

    def _report(self, fitted: Stamp, results: Mapping[str, Any]) -> Stamp:
        config = self._config.model_dump(mode="json")
        config |= {"processes": self._config.labelled(), "strengths": self._config.signals}
        key = (fitted.digest, config, results["warnings"], code_digest("analysis", "plots"))

        def work(part: Path) -> dict[str, Any]:
            from neyman.plots import sannt_report

            part.mkdir()
            sannt_report.write(part, config, {**results, "steps": self._seconds()})
            return {}

        return self._steps.do("report", "report", key, work)

    def _seconds(self) -> dict[str, float]:
        return {stamp.step: stamp.seconds for stamp in self._steps.stamps.values()}

    def _seed(self, label: str) -> int:
        return derive(self._config.measurement.seed, label)


def _lost(closure: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"the workspace does not hold {one['name']}: {one['reason']}" for one in closure if not one["passed"]
    ]


def _present(observed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: counts for name, counts in observed.items() if counts is not None}
