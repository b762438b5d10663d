"""`run`: the whole chain from ROOT files to the report, step by step, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from neyman.analysis.config import Config, load_config
from neyman.analysis.simulation import Inputs, Simulation
from neyman.analysis.steps import Stamp, Steps, code_digest, file_key
from neyman.files import write_json
from neyman.networks import Model
from neyman.ratios import ProcessRatios, tabulate

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
        ratios, networks, trained = self._train(simulation)
        workspace = self._workspace(simulation, ratios, networks, trained)
        measured = self._measure(workspace)
        self._report(measured)
        results = {**measured.summary, "steps": {s.step: s.seconds for s in self._steps.stamps.values()}}
        write_json(self._output / "results.json", results)
        return Run(self._config, self._output, results, self._steps.stamps)

    def _events(self, executor: Executor, workers: int, client: Any) -> Simulation:
        from neyman.analysis.simulation import process

        config, inputs = self._config, self._inputs
        key = (
            config.events.model_dump(exclude={"executor", "workers", "labels"}),
            [s.model_dump() for s in config.systematics],
            {name: region.model_dump() for name, region in config.regions.items()},
            config.analysis.seed,
            {name: [file_key(path) for path in files] for name, files in inputs.files.items()},
            inputs.processor.source,
            code_digest("events"),
        )
        stamp = self._steps.do(
            "events",
            "events",
            key,
            lambda folder: process(
                config,
                inputs,
                folder,
                executor=executor,
                workers=workers,
                client=client,
                progress=lambda done, total: self._reporter.progress("events", done, total),
            ),
        )
        return Simulation(config, self._output / "events", stamp.summary, inputs.expected)

    def _train(self, simulation: Simulation) -> tuple[dict[str, ProcessRatios], dict[str, Path], list[str]]:
        from neyman.analysis.learning import summarise, train_process, train_updown

        config = self._config
        events = self._steps.stamps["events"].digest
        code = code_digest("networks", "training", "ratios")
        common = (events, config.training.fraction, config.analysis.seed, code, simulation.expected)
        networks: dict[str, Path] = {}
        ratios: dict[str, ProcessRatios] = {}
        digests: list[str] = []
        for sample in config.samples:
            name = f"train {sample.name}"
            path = f"model/{sample.name}.safetensors"

            def nominal(part: Path, sample: str = sample.name, name: str = name) -> dict[str, Any]:
                with self._counted(name, config.training.nominal.steps) as progress:
                    ratio = train_process(config, simulation, sample, progress)
                ratio.save(part)
                return summarise(ratio)

            digests.append(
                self._steps.do(name, path, (*common, config.training.nominal.model_dump()), nominal).digest
            )
            networks[sample.name] = self._output / path
            up_down = {}
            for systematic in config.updown:
                name = f"train {sample.name} {systematic.name}"
                folder = f"model/updown/{sample.name}_{systematic.name}"

                def shifted(
                    part: Path, sample: str = sample.name, name: str = name, systematic: Any = systematic
                ) -> dict[str, Any]:
                    part.mkdir()
                    with self._counted(name, 2 * config.training.updown.steps) as progress:
                        pair = train_updown(config, simulation, sample, systematic, progress)
                    for ratio, label in zip(pair, ("up", "down"), strict=True):
                        ratio.save(part / f"{label}.safetensors")
                    return summarise(*pair)

                key = (*common, config.training.updown.model_dump())
                digests.append(self._steps.do(name, folder, key, shifted).digest)
                files = [self._output / folder / f"{label}.safetensors" for label in ("up", "down")]
                up_down[systematic.name] = Model.load(files[0]), Model.load(files[1])
                networks |= {
                    f"{sample.name}_{systematic.name}_{f.name.removesuffix('.safetensors')}": f for f in files
                }
            model = Model.load(networks[sample.name])
            nodes: tuple[float, ...] = ()
            if (conditioning := config.conditioning) is not None:
                some = simulation.halves(sample.name, "nominal")[1]
                nodes, _ = tabulate(model, some, -conditioning.range, conditioning.range)
            ratios[sample.name] = ProcessRatios(sample.name, model, up_down, nodes)
        return ratios, networks, digests

    @contextmanager
    def _counted(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: self._reporter.progress(name, done, total)

    def _workspace(
        self,
        simulation: Simulation,
        ratios: dict[str, ProcessRatios],
        networks: dict[str, Path],
        trained: list[str],
    ) -> Stamp:
        from neyman.analysis.building import write_workspace

        config = self._config
        key = (
            trained,
            config.model_dump(exclude={"training", "events"}),
            code_digest("analysis", "ratios", "workspace"),
        )
        return self._steps.do(
            "workspace",
            "workspace",
            key,
            lambda folder: write_workspace(config, simulation, ratios, networks, folder),
        )

    def _measure(self, workspace: Stamp) -> Stamp:
        from neyman.analysis.measuring import measure

        key = (
            workspace.digest,
            self._config.fit.model_dump(),
            code_digest("analysis", "likelihood", "inference", "diagnostics"),
        )

        def work(part: Path) -> dict[str, Any]:
            results = measure(self._config, self._output / "workspace") | {"workspace": workspace.summary}
            write_json(part, results)
            return results

        return self._steps.do("fit", "fit.json", key, work)

    def _report(self, measured: Stamp) -> Stamp:
        from neyman.plots import report

        training = {
            name: stamp.summary for name, stamp in self._steps.stamps.items() if name.startswith("train ")
        }
        key = (measured.digest, self._config.model_dump(), code_digest("analysis", "plots"))

        def work(part: Path) -> dict[str, Any]:
            part.mkdir()
            results = {**measured.summary, "steps": {s.step: s.seconds for s in self._steps.stamps.values()}}
            report.write(part, self._config.model_dump(mode="json"), results, training)
            return {}

        return self._steps.do("report", "report", key, work)
