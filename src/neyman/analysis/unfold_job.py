"""`unfold`: an unfolding from flat files to spectra, HEPData tables and a report, step by step, resumable.

Its steps are events, the columns of the observables, the unfolding, spectra, HEPData tables, closure and report. New
bins or observables leave the unfolding as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neyman.analysis.run import Reporter, Silent
from neyman.analysis.simulation import derive
from neyman.analysis.steps import Stamp, Steps, code_digest, file_key, noted
from neyman.analysis.unfold_config import UnfoldConfig, load_unfold_config
from neyman.analysis.unfold_events import UnfoldEvents
from neyman.analysis.unfold_spectra import closure_document, failed, report, spectra_document
from neyman.analysis.unfold_stored import StoredEvents, StoredObservables
from neyman.errors import TrainingError
from neyman.files import digest, jsonable, read_json, write_json
from neyman.networks import Model
from neyman.unfolding import Bootstrap, OmniFold, Spectrum, Unfolding, closure_test, to_hepdata

RESULT, SPECTRA, HEPDATA, CLOSURE, RESULTS = (
    "unfolding",
    "spectra.json",
    "hepdata",
    "closure.json",
    "results.json",
)
_EVENTS, _OBSERVABLES = ".neyman/events", ".neyman/observables"
_OWN = tuple(
    f"analysis/{name}.py"
    for name in ("inputs", "simulation", "unfold_config", "unfold_events", "unfold_stored")
)
_CODE = ("networks", "events", "training", "unfolding", *_OWN, "analysis/unfold_job.py")


@dataclass(frozen=True)
class Unfolded:
    """A finished job.

    Parameters
    ----------
    config
        The configuration.
    output
        Folder with everything: ``unfolding/``, ``spectra.json``, ``hepdata/``, ``closure.json``, ``results.json``,
        ``report/``.
    results
        The results document.
    stamps
        The steps with their times.
    """

    config: UnfoldConfig
    output: Path
    results: dict[str, Any]
    stamps: dict[str, Stamp]

    @cached_property
    def unfolding(self) -> Unfolding:
        """The weights of the simulated events, in the order of the files and their rows."""
        return Unfolding.load(self.output / RESULT)

    @cached_property
    def spectra(self) -> dict[str, Spectrum]:
        """The unfolded spectra by observable."""
        return {name: Spectrum.from_dict(one) for name, one in self.results["spectra"].items()}

    @property
    def failed(self) -> list[str]:
        """The observables whose closure failed."""
        return failed(self.results["closure"])

    def refusal(self) -> TrainingError | None:
        """What is wrong with the closure, if anything is."""
        if not self.failed:
            return None
        closure = self.results["closure"]
        found = closure["observables"]
        words = [
            f"{name}: chi2 = {found[name]['chi2']:.1f} for {found[name]['ndof']} degrees of freedom, "
            f"p = {found[name]['p_value'] or 0.0:.2g}"
            for name in self.failed
        ]
        return TrainingError(
            f"the closure test failed in {len(words)} of {len(found)} observables: the unfolded half of the "
            "simulation is not the truth",
            where="\n         ".join(words),
            expected=f"p of at least {closure['required']:g}",
            fix="more iterations, longer training or larger networks; p_value of [closure] says what is accepted. "
            "The spectra are written all the same",
        )


def unfold(
    config: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> Unfolded:
    """Unfold data with a simulation, both from flat files; finished steps of an earlier call are kept.

    Every simulated event keeps its row: ``unfolding/weights.parquet`` has the weights in the order of the files and
    their rows, so that further observables need nothing else. The features of an event that fails a level are not
    looked at there.

    Parameters
    ----------
    config
        The ``unfold.toml``.
    output
        Folder for everything that is made; ``out/NAME`` if not given.
    reporter
        Told about progress.

    Raises
    ------
    NeymanError
        Whatever is wrong with the input, naming file, key, column or event. A failed closure is no error here:
        `Unfolded.failed` names the observables, and `Unfolded.refusal` says what to do.
    """
    file = Path(config)
    settings = load_unfold_config(file)
    inputs = UnfoldEvents.find(settings, file.parent)
    reporter = reporter or Silent()
    steps = Steps(Path("out") / settings.name if output is None else Path(output), reporter.step)
    with steps.locked():
        return _Job(settings, inputs, file.parent, steps, reporter).run()


class _Job:
    def __init__(
        self, config: UnfoldConfig, inputs: UnfoldEvents, home: Path, steps: Steps, reporter: Reporter
    ) -> None:
        self._config, self._inputs = config, inputs
        self._starts = [
            None if name is None else home / name
            for name in (config.unfold.start.detector, config.unfold.start.particle)
        ]
        self._steps, self._reporter = steps, reporter
        self._events = StoredEvents(config, steps.output / _EVENTS)
        self._observables = StoredObservables(config, steps.output / _OBSERVABLES)

    def run(self) -> Unfolded:
        output = self._steps.output
        events = self._read("events", _EVENTS, self._inputs.key(), self._inputs.write)
        columns = self._read(
            "observables", _OBSERVABLES, self._inputs.observables_key(), self._inputs.write_observables
        )
        self._observables.check_edges(self._events.generated)
        unfolded = self._unfold(events)
        spectra = self._spectra(unfolded, columns)
        self._hepdata(spectra)
        closure = self._closure(events, columns)
        document = read_json(output / SPECTRA)["observables"]
        closed = None if closure is None else self._judged(closure)
        stamps = [stamp for stamp in (unfolded, spectra, closure) if stamp is not None]
        result = dict(unfolded.summary["result"])
        results = {
            **{name: result.pop(name) for name in ("yield", "effective_size", "support")},
            "spectra": {name: one["spectrum"] for name, one in document.items()},
            "moments": {name: one["moments"] for name, one in document.items()},
            "closure": closed,
            "warnings": list(dict.fromkeys(note for stamp in stamps for note in stamp.summary["warnings"])),
            "events": events.summary,
            "unfolding": result,
        }
        self._report(stamps, results)
        results["steps"] = self._seconds()
        write_json(output / RESULTS, results)
        return Unfolded(self._config, output, results, self._steps.stamps)

    def _read(self, name: str, place: str, key: tuple[Any, ...], write: Any) -> Stamp:
        def work(folder: Path) -> dict[str, Any]:
            found: dict[str, Any] = write(folder, lambda k, n: self._reporter.progress(name, k, n))
            return found

        return self._steps.do(name, place, (*key, code_digest("events", *_OWN)), work)

    # Unfolding --------------------------------------------------------------------------------------------

    def _unfold(self, events: Stamp) -> Stamp:
        config = self._config
        bootstrap = config.uncertainties.made()
        key = (*self._training_key(events), config.uncertainties.model_dump(), list(config.systematics))
        folder = self._checkpoint(RESULT, key)

        def work(part: Path) -> dict[str, Any]:
            sets = sum(len(one.sides()) for one in config.systematics.values())
            with noted() as notes:
                result = config.made().fit(
                    **self._events.inputs(),
                    bootstrap=bootstrap,
                    **self._options("unfold", RESULT, folder, bootstrap, sets),
                )
            result.save(part)
            return {"result": jsonable(result), "warnings": list(dict.fromkeys(notes))}

        stamp = self._steps.do("unfold", RESULT, key, work)
        shutil.rmtree(folder, ignore_errors=True)  # the result is there
        return stamp

    def _closure(self, events: Stamp, columns: Stamp) -> Stamp | None:
        config, section = self._config, self._config.closure
        if not section.on:
            # One that an earlier configuration left would be taken for this one.
            (self._steps.output / CLOSURE).unlink(missing_ok=True)
            self._checkpoint(CLOSURE, ())
            return None
        bootstrap = Bootstrap(section.replicas, section.replicas)
        training = (*self._training_key(events), section.distortion, section.replicas)
        edges = [(one.name, one.edges) for one in config.observables]
        key = (training, columns.digest, edges, code_digest(*_CODE, "analysis/unfold_spectra.py"))
        # Not forgotten when it is done: other bins need no other unfolding.
        folder = self._checkpoint(CLOSURE, training)

        def work(part: Path) -> dict[str, Any]:
            with noted() as notes:
                test = closure_test(
                    config.made(),
                    **self._events.closure_inputs(),
                    observables={
                        one.name: (self._observables.particle(one.name), one.edges)
                        for one in config.observables
                    },
                    distortion=None if section.distortion is None else self._observables.distortion(),
                    bootstrap=bootstrap,
                    **self._options("closure", CLOSURE, folder, bootstrap, 0),
                )
            document = closure_document(test, config)
            write_json(part, document)
            own = {name: one["comparison"] for name, one in document["observables"].items()}
            return {
                "comparisons": own,
                "warnings": [f"closure test: {note}" for note in dict.fromkeys(notes)],
            }

        return self._steps.do("closure", CLOSURE, key, work)

    def _training_key(self, events: Stamp) -> tuple[Any, ...]:
        config = self._config
        used = {"unfold", "loss", "settings", "detector", "particle"}
        networks = config.model_dump(mode="json", include=used)
        starts = [None if path is None else file_key(path) for path in self._starts]
        networks["unfold"].pop("start")
        return events.digest, networks, starts, code_digest(*_CODE)

    def _options(
        self, step: str, label: str, folder: Path, bootstrap: Bootstrap, sets: int
    ) -> dict[str, Any]:
        """What both unfoldings have in common."""
        omnifold, at_once = self._config.made(), self._config.uncertainties.at_once
        total = _optimizer_steps(omnifold, bootstrap, sets, at_once, fakes=self._events.fakes)
        detector, particle = (None if path is None else Model.load(path) for path in self._starts)
        return {
            "start": (detector, particle),
            "seed": derive(self._config.unfold.seed, label),
            "checkpoint": folder,
            "at_once": at_once,
            "progress": lambda k: self._reporter.progress(step, k, total),
        }

    def _checkpoint(self, name: str, key: tuple[Any, ...]) -> Path:
        """Folder named after the training: that of a job with other settings must not stop this one."""
        folder = self._steps.scratch(f"{name}.{digest(key)[:12]}.state")
        for other in folder.parent.glob(f"{name}.*.state"):
            if other != folder:
                shutil.rmtree(other)
        return folder

    # Results ----------------------------------------------------------------------------------------------

    def _spectra(self, unfolded: Stamp, columns: Stamp) -> Stamp:
        observables = [one.model_dump() for one in self._config.observables]
        own = code_digest("unfolding", "analysis/unfold_spectra.py", "plots/unfolding_checks.py")
        key = (unfolded.digest, columns.digest, observables, own)

        def work(part: Path) -> dict[str, Any]:
            with noted() as notes:
                document = spectra_document(
                    Unfolding.load(self._steps.output / RESULT), self._config, self._observables
                )
            write_json(part, document)
            return {"warnings": notes}

        return self._steps.do("spectra", SPECTRA, key, work)

    def _hepdata(self, spectra: Stamp) -> Stamp:
        title = self._config.title

        def work(part: Path) -> dict[str, Any]:
            document = read_json(self._steps.output / SPECTRA)["observables"]
            to_hepdata(
                [Spectrum.from_dict(one["spectrum"]) for one in document.values()], part, comment=title
            )
            return {}

        return self._steps.do("hepdata", HEPDATA, (spectra.digest, title, code_digest("unfolding")), work)

    def _judged(self, closure: Stamp) -> dict[str, Any]:
        """The comparisons of the closure with the verdict, without those of single bins."""
        found = {
            name: {part: one[part] for part in ("chi2", "ndof", "p_value")}
            for name, one in closure.summary["comparisons"].items()
        }
        judged: dict[str, Any] = {"required": self._config.closure.p_value, "observables": found}
        return {"passed": not failed(judged), **judged}

    def _report(self, stamps: list[Stamp], results: Mapping[str, Any]) -> Stamp:
        config = self._config
        key = (
            [stamp.digest for stamp in stamps],
            config.model_dump(mode="json"),
            code_digest("analysis", "plots"),
        )

        def work(part: Path) -> dict[str, Any]:
            part.mkdir()
            report(part, self._steps.output, config, {**results, "steps": self._seconds()})
            return {}

        return self._steps.do("report", "report", key, work)

    def _seconds(self) -> dict[str, float]:
        return {stamp.step: stamp.seconds for stamp in self._steps.stamps.values()}


def _optimizer_steps(
    omnifold: OmniFold, bootstrap: Bootstrap, sets: int, at_once: int, *, fakes: bool
) -> int:
    """All optimizer steps of an unfolding."""
    total = omnifold.optimizer_steps(bootstrap=bootstrap, systematics=sets, at_once=at_once)
    return total * 3 // 2 if fakes and omnifold.fakes == "learned" else total
