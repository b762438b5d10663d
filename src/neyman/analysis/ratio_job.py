"""`train_ratio`: one density ratio from two samples, trained, calibrated, checked, and exported if it can be trusted.

Its steps are kept like those of `neyman.analysis.run`: events, training, the ratio made of what was trained, checks,
model file, report.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neyman.analysis.ratio_config import RatioConfig, load_ratio_config
from neyman.analysis.ratio_events import SIDES, RatioEvents, Side, SplitEvents
from neyman.analysis.run import Reporter, Silent
from neyman.analysis.simulation import derive
from neyman.analysis.steps import Stamp, Steps, code_digest, file_key, noted
from neyman.analysis.trust import trust, within
from neyman.errors import TrainingError
from neyman.files import digest, jsonable, read_json, write_json
from neyman.networks import Model
from neyman.ratios import DLE, LRE, Density, DensityRatio, Hybrid, Ratio
from neyman.training import Settings

MODEL, CHECKS, HISTORY = "model.safetensors", "checks.json", "history.json"
_RATIO = ".neyman/ratio.safetensors"
_OWN = tuple(f"analysis/{name}.py" for name in ("inputs", "ratio_events", "ratio_job", "simulation"))
_CODE = ("networks", "events", "training", "ratios", *_OWN)
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TrainedRatio:
    """A finished job.

    Parameters
    ----------
    config
        The configuration.
    output
        Folder with everything: ``model.safetensors``, ``checks.json``, ``history.json``, ``report/``.
    model
        The exported file; None when a check failed and that was not allowed.
    checks
        The document ``checks.json``.
    warnings
        What the training warned of.
    stamps
        The steps with their times.
    """

    config: RatioConfig
    output: Path
    model: Path | None
    checks: dict[str, Any]
    warnings: list[str]
    stamps: dict[str, Stamp]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The checks that did not pass."""
        return [one for one in self.checks["checks"] if not one["passed"]]

    def refusal(self) -> TrainingError | None:
        """Why there is no model file."""
        if self.model is not None:
            return None
        return TrainingError(
            f"the model is not exported: {len(self.failed)} of {len(self.checks['checks'])} checks failed",
            where="\n         ".join(f"{one['name']}: {one['reason']}" for one in self.failed),
            fix="train longer, on more events or with a larger ensemble, calibrate, or widen [checks.tolerance]; "
            "--allow-failed-checks exports the model as it is, without training again",
        )


def train_ratio(
    config: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    allow_failed_checks: bool = False,
    reporter: Reporter | None = None,
) -> TrainedRatio:
    """Train, calibrate, check and export a density ratio; finished steps of an earlier call are kept.

    The events held back by ``[checks] fraction`` take no part in the training. One half of them calibrates, if that is
    asked for, the rest is for the checks of :func:`neyman.analysis.trust.trust`. For these the ratio is normalised
    over the denominator's other events. The logarithm of that mean ratio is ``log_normalisation`` in the checks and
    stands in the notes of the model file, whose output is not normalised: a likelihood term normalises with its own
    reference sample.

    Parameters
    ----------
    config
        The ``ratio.toml``.
    output
        Folder for everything that is made; ``out/NAME`` if not given.
    allow_failed_checks
        Whether a model of which a check failed is exported all the same; its notes say so.
    reporter
        Told about progress.

    Raises
    ------
    NeymanError
        Whatever is wrong with the input, naming file, key, column or event. A failed check is no error here:
        `TrainedRatio.model` is None, and `TrainedRatio.refusal` says why.
    """
    file = Path(config)
    settings = load_ratio_config(file)
    inputs = RatioEvents.find(settings, file.parent)
    reporter = reporter or Silent()
    steps = Steps(Path("out") / settings.name if output is None else Path(output), reporter.step)
    with steps.locked():
        return _Job(settings, inputs, file.parent, steps, reporter).run(allow_failed_checks)


class _Job:
    def __init__(
        self, config: RatioConfig, inputs: RatioEvents, home: Path, steps: Steps, reporter: Reporter
    ) -> None:
        self._config, self._inputs = config, inputs
        self._start = home / config.start if config.start is not None else None
        self._steps, self._reporter = steps, reporter

    def run(self, allow_failed_checks: bool) -> TrainedRatio:
        output = self._steps.output
        events = self._events()
        trained = self._train(events)
        ratio = self._ratio(events, trained)
        checked = self._check(events, ratio)
        write_json(output / HISTORY, _histories(trained))
        model = self._export(ratio, checked, allow_failed_checks)
        notes = list(dict.fromkeys(note for stamp in trained.values() for note in stamp.summary["warnings"]))
        checks = read_json(output / CHECKS)
        results = {
            "checks": checks,
            "exported": model is not None,
            "warnings": notes,
            "events": events.numbers(),
            "histories": _histories(trained),
            "model": ratio.summary["model"],
        }
        self._report(checked, results)
        return TrainedRatio(self._config, output, model, checks, notes, self._steps.stamps)

    def _events(self) -> SplitEvents:
        def work(folder: Path) -> dict[str, Any]:
            return self._inputs.write(folder, lambda k, n: self._reporter.progress("events", k, n))

        key = (*self._inputs.key(), code_digest("events", *_OWN))
        stamp = self._steps.do("events", ".neyman/events", key, work)
        return SplitEvents(self._config, self._steps.scratch("events"), stamp.summary)

    def _train(self, events: SplitEvents) -> dict[str, Stamp]:
        """Train each network or flow as a step of its own."""
        estimator = self._config.made()
        if isinstance(estimator, LRE):
            return {"ratio": self._train_classifiers(estimator, events)}
        flow = estimator if isinstance(estimator, DLE) else estimator.flow
        done: dict[str, Stamp] = {}
        for side in SIDES:
            done[side] = self._train_flow(flow, side, events)
            if isinstance(estimator, Hybrid):
                done[f"{side} residual"] = self._train_residual(estimator, side, events, done[side])
        return done

    def _train_classifiers(self, lre: LRE, events: SplitEvents) -> Stamp:
        config = self._config

        def fit(checkpoint: Path, progress: Progress) -> Ratio:
            return lre.fit(
                *(events.training(side) for side in SIDES),
                parameters=config.parameters,
                seed=self._seed("training"),
                start=Ratio.load(self._start) if self._start is not None else None,
                freeze=config.freeze,
                checkpoint=checkpoint,
                progress=progress,
            )

        return self._trained("ratio", (repr(lre), *self._start_key()), lre.settings, fit)

    def _train_flow(self, dle: DLE, side: Side, events: SplitEvents) -> Stamp:
        def fit(checkpoint: Path, progress: Progress) -> Density:
            start = None
            if self._start is not None:
                earlier = DensityRatio(Model.load(self._start))
                start = earlier.numerator if side == "numerator" else earlier.denominator
            return dle.fit(
                events.training(side),
                parameters=self._config.parameters if side == "numerator" else (),
                seed=self._seed("training"),
                start=start,
                freeze=self._config.freeze,
                checkpoint=checkpoint,
                progress=progress,
            )

        return self._trained(side, (repr(dle), *self._start_key()), dle.settings, fit)

    def _train_residual(self, hybrid: Hybrid, side: Side, events: SplitEvents, flow: Stamp) -> Stamp:
        def fit(checkpoint: Path, progress: Progress) -> Density:
            density = Density.load(self._steps.output / _trained_file(side))
            return hybrid.correct(
                density,
                events.training(side),
                seed=self._seed("training"),
                checkpoint=checkpoint,
                progress=progress,
            )

        return self._trained(f"{side} residual", (flow.digest, repr(hybrid)), hybrid.settings, fit)

    def _trained(
        self,
        name: str,
        key: tuple[Any, ...],
        settings: Settings,
        fit: Callable[[Path, Progress], Ratio | Density],
    ) -> Stamp:
        step = f"train {name}"
        key = (*key, self._steps.stamps["events"].digest, code_digest(*_CODE))
        slug = name.replace(" ", "_")
        # Named after the training: that of a job with other settings must not stop this one.
        checkpoint = self._steps.scratch(f"training.{slug}.{digest(key)[:12]}.safetensors")
        for other in checkpoint.parent.glob(f"training.{slug}.*"):
            if other != checkpoint:
                other.unlink()

        def work(part: Path) -> dict[str, Any]:
            with noted() as notes:
                done = fit(checkpoint, lambda k: self._reporter.progress(step, k, settings.steps))
            done.model.save(part)
            return {"history": done.history.to_dict(), "warnings": notes}

        return self._steps.do(step, _trained_file(name), key, work)

    def _ratio(self, events: SplitEvents, trained: dict[str, Stamp]) -> Stamp:
        """Make one ratio of what was trained: its members combined, calibrated, and with its normalisation known."""
        config = self._config
        key = (
            [stamp.digest for stamp in trained.values()],
            config.aggregate,
            config.calibration.method,
            config.names(),
            code_digest(*_CODE),
        )

        def work(part: Path) -> dict[str, Any]:
            files = [
                self._steps.output / _trained_file(name)
                for name in trained
                if f"{name} residual" not in trained
            ]
            if len(files) == 1:
                ratio = Ratio.load(files[0])
            else:
                numerator, denominator = (Density.load(file) for file in files)
                ratio = numerator.over(denominator)
            ratio = ratio.aggregated_by(config.aggregate)
            if config.calibration.method != "none":
                rng = np.random.default_rng(self._seed("calibration"))
                p, q = (within(ratio, events.calibration(side)) for side in SIDES)
                # Events of q take the parameters of those of p in turn: the order of the files must not enter.
                p, q = (table.select(rng.permutation(len(table))) for table in (p, q))
                ratio = ratio.calibrated(p, q, config.calibration.method)
            notes: dict[str, str] = dict(zip(SIDES, config.names(), strict=True))
            log_norm = None
            if not config.parameters:
                reference = events.reference()
                r = np.exp(ratio.log_ratio(reference).astype(np.float64))
                log_norm = float(np.log(reference.weight @ r / reference.weight.sum()))
                notes["log_normalisation"] = f"{log_norm:.5f}"
            model = ratio.model.replace(notes=notes)
            model.save(part)
            return {"model": model.description.model_dump(mode="json"), "log_normalisation": log_norm}

        return self._steps.do("ratio", _RATIO, key, work)

    def _check(self, events: SplitEvents, ratio: Stamp) -> Stamp:
        config = self._config
        key = (
            ratio.digest,
            config.checks.model_dump(exclude={"fraction"}),
            code_digest(*_CODE, "diagnostics", "analysis/trust.py"),
        )

        def work(part: Path) -> dict[str, Any]:
            checks = trust(
                Ratio.load(self._steps.output / _RATIO).normalised(events.reference()),
                *(events.checks(side) for side in SIDES),
                seed=self._seed("checks"),
                name=config.names()[0],
                slices=config.checks.slices,
                expected=config.checks.expected,
                tolerances=config.checks.tolerance,
            )
            log_norm = ratio.summary["log_normalisation"]
            write_json(part, jsonable(checks.to_dict() | {"log_normalisation": log_norm}))
            return {"failed": [f"{one.name}: {one.reason}" for one in checks.failed]}

        return self._steps.do("checks", CHECKS, key, work)

    def _export(self, ratio: Stamp, checked: Stamp, allowed: bool) -> Path | None:
        target, failed = self._steps.output / MODEL, checked.summary["failed"]
        if failed and not allowed:
            # One that an earlier configuration left would be taken for this one.
            target.unlink(missing_ok=True)
            return None

        def work(part: Path) -> dict[str, Any]:
            model = Model.load(self._steps.output / _RATIO)
            verdict = "FAILED: " + "; ".join(failed) if failed else "all passed"
            model.replace(notes=model.description.notes | {"checks": verdict}).save(part)
            return {}

        self._steps.do("model", MODEL, (ratio.digest, checked.digest), work)
        return target

    def _report(self, checked: Stamp, results: dict[str, Any]) -> Stamp:
        config = self._config.model_dump(mode="json")
        key = (checked.digest, config, results["exported"], code_digest("analysis", "plots"))

        def work(part: Path) -> dict[str, Any]:
            from neyman.plots import ratio_report

            part.mkdir()
            seconds = {stamp.step: stamp.seconds for stamp in self._steps.stamps.values()}
            ratio_report.write(part, config, results | {"steps": seconds})
            return {}

        return self._steps.do("report", "report", key, work)

    def _start_key(self) -> tuple[Any, ...]:
        return (file_key(self._start) if self._start is not None else None, self._config.freeze)

    def _seed(self, label: str) -> int:
        return derive(self._config.seed, label)


def _trained_file(name: str) -> str:
    return f".neyman/trained_{name.replace(' ', '_')}.safetensors"


def _histories(trained: dict[str, Stamp]) -> dict[str, Any]:
    return {name: stamp.summary["history"] for name, stamp in trained.items()}
