"""The main job on Dask workers: the events, networks and results of a run without them, also when workers are lost."""

from __future__ import annotations

import os
import signal

import pytest
from analysis_toy import Recorder

pytest.importorskip("distributed")

from neyman.analysis import run
from neyman.analysis.learning import Training
from neyman.analysis.steps import Steps
from neyman.cluster import connect
from neyman.errors import ConfigError


class Killer(Recorder):
    """Kills a worker in the middle of the events and of the trainings, and may stop before a step."""

    def __init__(self, client, stop_before=None):
        super().__init__()
        self.client, self.stop_before, self.killed = client, stop_before, set()

    def step(self, name, state):
        if name == self.stop_before:
            raise KeyboardInterrupt
        super().step(name, state)

    def progress(self, name, done, total):
        if name not in self.killed and done < total:
            self.killed.add(name)
            self.client.wait_for_workers(2, timeout=60)
            os.kill(next(iter(self.client.run(os.getpid).values())), signal.SIGKILL)


def networks_and_events(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_lost_workers_change_no_event_and_no_network(toy_config, toy_run, tmp_path, monkeypatch):
    out, states, scratch = tmp_path / "out", [], Steps.scratch
    monkeypatch.setattr(Steps, "scratch", lambda self, name: states.append(scratch(self, name)) or states[-1])
    with connect("local:2") as client:
        killer = Killer(client, stop_before="workspace")
        with pytest.raises(KeyboardInterrupt):
            run(toy_config, output=out, dask=client, reporter=killer)
    assert killer.killed == {"events", "train on Dask workers"}
    for part in ("events", "model"):
        found, expected = (networks_and_events(one / part) for one in (out, toy_run.output))
        # Members are trained one by one on workers: in general that is the same to the rounding of sums.
        assert found == expected
    assert not [p for p in (out / ".neyman").iterdir() if ".training" in p.name]
    # A run that goes on without workers removes what groups of members were to go on from.
    states[0].with_name(f"{states[0].name}.1").touch()
    again = Killer(None, stop_before="workspace")
    with pytest.raises(KeyboardInterrupt):
        run(toy_config, output=out, reporter=again)
    assert set(again.steps.values()) == {"kept"}
    assert not [p for p in (out / ".neyman").iterdir() if ".training" in p.name]


@pytest.mark.slow
def test_a_whole_run_on_workers_gives_the_same_results(toy_config, toy_run, tmp_path):
    done = run(toy_config, output=tmp_path / "out", dask="local:2")
    assert (done.output / "fit.json").read_text() == (toy_run.output / "fit.json").read_text()
    assert list(done.stamps) == list(toy_run.stamps)


def test_no_worker_is_asked_for_when_every_step_is_kept(toy_config, toy_run):
    done = run(toy_config, output=toy_run.output, dask="tcp://127.0.0.1:1")
    assert done.results["expected"] == toy_run.results["expected"]


def test_gpus_need_workers(toy_config, tmp_path):
    with pytest.raises(ConfigError, match=r"gpus are for Dask workers[\s\S]*--dask"):
        run(toy_config, output=tmp_path / "out", gpus=True)


def test_trainings_have_names_for_messages():
    assert str(Training("sig", members=range(2, 4))) == "sig, members 2, 3"
    assert str(Training("sig", "offsetUp", "offset")) == "sig offsetUp"
