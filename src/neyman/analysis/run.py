"""`run`: the whole chain from ROOT files to the report, step by step, resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol

from neyman.analysis.building import write_workspace
from neyman.analysis.config import Config, load_config
from neyman.analysis.inputs import identity
from neyman.analysis.learning import Training, TrainingStep, train
from neyman.analysis.measuring import measure
from neyman.analysis.simulation import NOMINAL, Inputs, Simulation, process
from neyman.analysis.steps import Stamp, Steps, code_digest
from neyman.cluster import completed, connect, gpu
from neyman.errors import ConfigError
from neyman.events.remote import is_remote
from neyman.files import digest, jsonable, write_json
from neyman.networks import Model
from neyman.ratios import ProcessRatios, Ratio, tabulate

_WORKERS = "train on Dask workers"
Executor = Literal["iterative", "threads"]


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
    dask: Any = None,
    gpus: bool = False,
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
        Folder or URL of the ROOT files, instead of the configured one.
    executor, workers
        coffea's executor (``iterative``, ``threads``) and its size, instead of the configured ones; results do not
        depend on them.
    dask
        What :func:`neyman.cluster.connect` takes, such as ``local:4``, ``htcondor:20``, an address or a client: Dask
        workers, which see the same files, process the events, train every group of members and every up/down ratio
        as a task, and scan the likelihoods. Workers may be lost. They are asked for when a step first needs them.
    gpus
        Whether every Dask worker has a GPU of its own; networks with ``device = "auto"`` are trained there.
    reporter
        Told about progress.

    Raises
    ------
    NeymanError
        Whatever is wrong with the input, naming file, key, branch, event or parameter.
    """
    file, folder = Path(config), Path(output)
    if gpus and dask is None:
        raise ConfigError("gpus are for Dask workers", fix="name a cluster: --dask local")
    if dask is not None:  # whose workers may stand in another folder
        file, folder = file.resolve(), folder.resolve()
        data = data if data is None or is_remote(os.fspath(data)) else Path(data).resolve()
    settings = load_config(file)
    inputs = Inputs.find(settings, file.parent, data)
    reporter = reporter or Silent()
    steps = Steps(folder, reporter.step)
    with steps.locked(), _Cluster(dask, gpus) as cluster:
        return _Pipeline(settings, inputs, steps, reporter, cluster).run(
            executor or settings.events.executor, workers or settings.events.workers
        )


class _Cluster(ExitStack):
    """The Dask cluster that the user named, connected to when it is first needed."""

    def __init__(self, target: Any, gpus: bool) -> None:
        super().__init__()
        self.named, self._target, self._gpus = target is not None, target, gpus

    @cached_property
    def client(self) -> Any:
        """A client, or None where no cluster was named."""
        return self.enter_context(connect(self._target, gpus=self._gpus)) if self.named else None


class _Pipeline:
    def __init__(
        self, config: Config, inputs: Inputs, steps: Steps, reporter: Reporter, cluster: _Cluster
    ) -> None:
        self._config, self._inputs, self._steps, self._reporter = config, inputs, steps, reporter
        self._output, self._cluster = steps.output, cluster

    def run(self, executor: Executor, workers: int) -> Run:
        simulation = self._events(executor, workers)
        if self._config.analysis.data == "pseudo":
            simulation.require_positive_weights()
        trained = self._train(simulation)
        self._remove_other_models()
        workspace = self._workspace(simulation, trained)
        measured = self._measure(workspace)
        self._report(measured)
        results = {**measured.summary, "steps": {s.step: s.seconds for s in self._steps.stamps.values()}}
        write_json(self._output / "results.json", results)
        return Run(self._config, self._output, results, self._steps.stamps)

    def _events(self, executor: Executor, workers: int) -> Simulation:
        config, inputs = self._config, self._inputs
        key = (
            config.events.model_dump(include={"tree", "features", "chunk_size", "replicas"}),
            [s.model_dump(exclude={"range"}) for s in config.systematics],
            {name: region.model_dump() for name, region in config.regions.items()},
            config.analysis.seed,
            {name: [identity(path) for path in files] for name, files in inputs.files.items()},
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
                client=self._cluster.client,
                progress=lambda done, total: self._reporter.progress("events", done, total),
            )

        stamp = self._steps.do("events", "events", key, work)
        return Simulation(config, self._output / "events", stamp.summary, inputs.expected)

    def _train(self, simulation: Simulation) -> list[_Trained]:
        planned = {sample.name: self._planned(sample.name) for sample in self._config.samples}
        every = [step for steps in planned.values() for step in steps]
        digests = {}
        if self._cluster.named:
            begun = time.perf_counter()
            missing = [s for s in every if self._steps.kept(s.name, s.output, s.key) is None]
            for step, ratios in self._trained_elsewhere(simulation, missing):
                work = partial(step.save, ratios)
                stamp = self._steps.do(step.name, step.output, step.key, work, since=begun)
                digests[step.name] = stamp.digest
        for step in every:
            if step.name not in digests:
                work = partial(self._train_and_save, simulation, step)
                digests[step.name] = self._steps.do(step.name, step.output, step.key, work).digest
        for step in every:
            # In the order of the configuration, whichever was ready first.
            self._steps.stamps[step.name] = self._steps.stamps.pop(step.name)
            if step.state is not None:  # groups of members that a run with other workers has begun
                for state in step.state.parent.glob(f"{step.state.name}*"):
                    state.unlink()
        return [
            _Trained(
                sample,
                self._output / own.output,
                {step.systematic: step.files(self._output) for step in shifted},
                [digests[step.name] for step in (own, *shifted)],
            )
            for sample, (own, *shifted) in planned.items()
        ]

    def _planned(self, sample: str) -> list[TrainingStep]:
        """The training steps of a process: its own ratio first, then its systematics."""
        common = (
            self._steps.stamps["events"].digest,
            [s.name for s in self._config.samples],
            self._config.training.fraction,
            self._config.analysis.seed,
            code_digest("networks", "training", "ratios", "analysis/simulation.py", "analysis/learning.py"),
        )
        key = (*common, self._config.training.nominal.model_dump())
        # A name of its own for every configuration: a changed one must not meet the state of another.
        state = self._steps.scratch(f"{sample}.{digest(key)[:12]}.training")
        for stale in state.parent.glob(f"{sample}.*.training*"):
            if not stale.name.startswith(state.name):
                stale.unlink()
        own = TrainingStep(f"train {sample}", f"model/{sample}.safetensors", key, (Training(sample),), state)
        key = (*common, self._config.training.updown.model_dump())
        names = [systematic.name for systematic in self._config.updown]
        return [own, *(TrainingStep.shifted(sample, name, key) for name in names)]

    def _train_and_save(self, simulation: Simulation, step: TrainingStep, part: Path) -> dict[str, Any]:
        steps = [training.section(self._config).steps for training in step.trainings]

        def progress(before: int, done: int) -> None:
            self._reporter.progress(step.name, before + done, sum(steps))

        ratios = [
            train(training, simulation, step.state, partial(progress, sum(steps[:k])))
            for k, training in enumerate(step.trainings)
        ]
        return step.save(ratios, part)

    def _trained_elsewhere(
        self, simulation: Simulation, missing: list[TrainingStep]
    ) -> Iterator[tuple[TrainingStep, list[Ratio]]]:
        """Yield the steps as Dask workers finish them; the groups of all trainings are tasks of one pool."""
        if not missing:
            return
        self._reporter.step(_WORKERS, "run")
        groups = {step.name: step.groups(self._config) for step in missing}
        tasks = [(group, step) for step in missing for group in groups[step.name]]
        client = self._cluster.client
        on_gpu = any(group.section(self._config).device != "cpu" for group, _ in tasks)
        ratios: dict[Training, Ratio] = {}
        for index, ratio in completed(
            client,
            _train_group,
            [(group, step.state) for group, step in tasks],
            shared=simulation,
            resources=gpu(client) if on_gpu else None,
            label=lambda task: f"the training of {task[0]}",
        ):
            group, step = tasks[index]
            ratios[group] = ratio
            self._reporter.progress(_WORKERS, len(ratios), len(tasks))
            if all(other in ratios for other in groups[step.name]):
                yield step, step.join(ratios, self._config)

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
                    **measure(self._config, self._output / "workspace", self._cluster.client),
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


def _train_group(task: tuple[Training, Path | None], simulation: Simulation) -> Ratio:
    training, state = task
    return train(training, simulation, state)


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
