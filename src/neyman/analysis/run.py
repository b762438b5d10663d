"""`run`: the whole chain from ROOT files to the report, step by step, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from neyman.analysis.building import write_workspace
from neyman.analysis.config import Config, SystematicSection, load_config
from neyman.analysis.learning import summarise, train_process, train_updown
from neyman.analysis.measuring import measure
from neyman.analysis.simulation import NOMINAL, Inputs, Simulation, process
from neyman.analysis.steps import Stamp, Steps, code_digest, file_key
from neyman.files import digest, jsonable, write_json
from neyman.networks import Model
from neyman.ratios import ProcessRatios, tabulate

_SIDES = ("up", "down")
Executor = Literal["iterative", "threads", "dask"]


class Reporter(Protocol):
    """Told what the run is doing; the command line shows it with rich."""

    def step(self, name: str, state: str) -> None:
        """A step begins: ``run``, or is ``kept`` from an earlier run."""

    def progress(self, name: str, done: int, total: int) -> None:
        """Part of the current step is done."""


class Silent:
    """A reporter that says nothing."""

    def step(self, name: str, state: str) -> None:
        """Ignore."""

    def progress(self, name: str, done: int, total: int) -> None:
        """Ignore."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Parameters
    ----------
    config
        The configuration.
    output
        Folder with everything: ``workspace/``, ``model/``, ``results.json``, ``report/``.
    results
        The results document.
    stamps
        The steps with their times.
    """

    config: Config
    output: Path
    results: dict[str, Any]
    stamps: dict[str, Stamp]


def run(
    config: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] = "out",
    data: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    client: Any = None,
    reporter: Reporter | None = None,
) -> Run:
    """Run an analysis; finished steps of an earlier run with the same inputs are kept.

    Parameters
    ----------
    config
        The ``analysis.toml``.
    output
        Folder for everything that is made.
    data
        Folder of the ROOT files, instead of the configured one.
    executor, workers
        coffea's executor (``iterative``, ``threads``, ``dask``) and its size, instead of the configured ones;
        results do not depend on them.
    client
        Address or client of a Dask cluster; a local one is started when it is not given.
    reporter
        Told about progress.

    Raises
    ------
    NeymanError
        Whatever is wrong with the input, naming file, key, branch, event or parameter.
    """
    file = Path(config)
    settings = load_config(file)
    inputs = Inputs.find(settings, file.parent, Path(data) if data is not None else None)
    reporter = reporter or Silent()
    steps = Steps(Path(output), reporter.step)
    with steps.locked():
        return _Pipeline(settings, inputs, steps, reporter).run(
            executor or settings.events.executor, workers or settings.events.workers, client
        )


class _Pipeline:
    def __init__(self, config: Config, inputs: Inputs, steps: Steps, reporter: Reporter) -> None:
        self._config, self._inputs, self._steps, self._reporter = config, inputs, steps, reporter
        self._output = steps.output

    def run(self, executor: Executor, workers: int, client: Any) -> Run:
        simulation = self._events(executor, workers, client)
        if self._config.analysis.data == "pseudo":
            simulation.require_positive_weights()
        trained = [self._train(simulation, sample.name) for sample in self._config.samples]
        self._remove_other_models()
        workspace = self._workspace(simulation, trained)
        measured = self._measure(workspace)
        self._report(measured)
        results = {**measured.summary, "steps": {s.step: s.seconds for s in self._steps.stamps.values()}}
        write_json(self._output / "results.json", results)
        return Run(self._config, self._output, results, self._steps.stamps)

    def _events(self, executor: Executor, workers: int, client: Any) -> Simulation:
        config, inputs = self._config, self._inputs
        key = (
            config.events.model_dump(include={"tree", "features", "chunk_size", "replicas"}),
            [s.model_dump(exclude={"range"}) for s in config.systematics],
            {name: region.model_dump() for name, region in config.regions.items()},
            config.analysis.seed,
            {name: [file_key(path) for path in files] for name, files in inputs.files.items()},
            (inputs.processor.source, inputs.processor.name),
            code_digest("events", "analysis/simulation.py"),
        )

        def work(folder: Path) -> dict[str, Any]:
            return process(
                config,
                inputs,
                folder,
                executor=executor,
                workers=workers,
                client=client,
                progress=lambda done, total: self._reporter.progress("events", done, total),
            )

        stamp = self._steps.do("events", "events", key, work)
        return Simulation(config, self._output / "events", stamp.summary, inputs.expected)

    def _train(self, simulation: Simulation, sample: str) -> _Trained:
        config = self._config
        common = (
            self._steps.stamps["events"].digest,
            [s.name for s in config.samples],
            config.training.fraction,
            config.analysis.seed,
            code_digest("networks", "training", "ratios", "analysis/simulation.py", "analysis/learning.py"),
        )

        key = (*common, config.training.nominal.model_dump())
        # A name of its own for every configuration: a changed one must not meet the state of another.
        state = self._steps.scratch(f"{sample}.{digest(key)[:12]}.training")
        for stale in set(state.parent.glob(f"{sample}.*.training")) - {state}:
            stale.unlink()

        def nominal(part: Path) -> dict[str, Any]:
            progress = self._progress(name, config.training.nominal.steps)
            ratio = train_process(config, simulation, sample, state, progress)
            ratio.save(part)
            return summarise(ratio)

        name, path = f"train {sample}", f"model/{sample}.safetensors"
        stamp = self._steps.do(name, path, key, nominal)
        digests, up_down = [stamp.digest], {}
        for systematic in config.updown:
            name, folder = f"train {sample} {systematic.name}", f"model/updown/{sample}_{systematic.name}"

            def shifted(
                part: Path, name: str = name, systematic: SystematicSection = systematic
            ) -> dict[str, Any]:
                part.mkdir()
                progress = self._progress(name, 2 * config.training.updown.steps)
                pair = train_updown(config, simulation, sample, systematic, progress)
                for ratio, side in zip(pair, _SIDES, strict=True):
                    ratio.save(part / f"{side}.safetensors")
                return summarise(*pair)

            key = (*common, config.training.updown.model_dump())
            digests.append(self._steps.do(name, folder, key, shifted).digest)
            up_down[systematic.name] = [self._output / folder / f"{side}.safetensors" for side in _SIDES]
        return _Trained(sample, self._output / path, up_down, digests)

    def _progress(self, name: str, total: int) -> Callable[[int], None]:
        return lambda done: self._reporter.progress(name, done, total)

    def _remove_other_models(self) -> None:
        # A renamed sample must not leave its old network among those that a scorer loads.
        for path in (self._output / "model").glob("*.safetensors"):
            if path.stem not in {s.name for s in self._config.samples}:
                path.unlink()

    def _workspace(self, simulation: Simulation, trained: list[_Trained]) -> Stamp:
        config = self._config
        key = (
            [t.digests for t in trained],
            simulation.expected,
            config.model_dump(exclude={"training", "events"}),
            config.training.model_dump(include={"spread", "spread_components"}),
            config.events.features,
            code_digest("analysis", "ratios", "workspace", "diagnostics"),
        )

        def work(folder: Path) -> dict[str, Any]:
            ratios = {t.sample: t.load(config, simulation) for t in trained}
            networks = {name: path for t in trained for name, path in t.files().items()}
            return write_workspace(config, simulation, ratios, networks, folder)

        return self._steps.do("workspace", "workspace", key, work)

    def _measure(self, workspace: Stamp) -> Stamp:
        key = (
            workspace.digest,
            self._config.fit.model_dump(),
            code_digest("analysis", "workspace", "likelihood", "inference"),
        )

        def work(part: Path) -> dict[str, Any]:
            summary = {name: workspace.summary[name] for name in ("closure", "closure_systematics", "checks")}
            results: dict[str, Any] = jsonable(
                {
                    **measure(self._config, self._output / "workspace"),
                    **summary,
                    "workspace": workspace.summary,
                }
            )
            write_json(part, results)
            return results

        return self._steps.do("fit", "fit.json", key, work)

    def _report(self, measured: Stamp) -> Stamp:
        training = {
            name: stamp.summary for name, stamp in self._steps.stamps.items() if name.startswith("train ")
        }
        key = (measured.digest, self._config.model_dump(), code_digest("analysis", "plots"))

        def work(part: Path) -> dict[str, Any]:
            from neyman.plots import report

            part.mkdir()
            results = {**measured.summary, "steps": {s.step: s.seconds for s in self._steps.stamps.values()}}
            report.write(part, self._config.model_dump(mode="json"), results, training)
            return {}

        return self._steps.do("report", "report", key, work)


@dataclass(frozen=True)
class _Trained:
    """Model files of one process, and the digests of the steps that made them."""

    sample: str
    nominal: Path
    up_down: dict[str, list[Path]]
    digests: list[str]

    def files(self) -> dict[str, Path]:
        """Name of every model file in a workspace."""
        shifted = {
            f"{self.sample}_{name}_{path.stem}": path
            for name, paths in self.up_down.items()
            for path in paths
        }
        return {self.sample: self.nominal} | shifted

    def load(self, config: Config, simulation: Simulation) -> ProcessRatios:
        """Load the models and choose the nodes of a conditioned one."""
        model = Model.load(self.nominal)
        up_down = {name: (Model.load(up), Model.load(down)) for name, (up, down) in self.up_down.items()}
        nodes: tuple[float, ...] = ()
        if (conditioning := config.conditioning) is not None:
            events = simulation.analysis(self.sample, NOMINAL)
            nodes, _ = tabulate(model, events, -conditioning.range, conditioning.range)
        return ProcessRatios(self.sample, model, up_down, nodes)
