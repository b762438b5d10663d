"""run_tasks: the same results in the same order, here and on workers, whatever happens to the workers."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import distributed
import numpy as np
import pytest

from neyman.cluster import completed, connect, run_tasks, tasks
from neyman.errors import ConfigError, InputError, NeymanWarning, TrainingError


def power(k, base=2):
    return base**k


def total(k, table):
    return k + float(table["x"].sum())


def die_once(task, folder):
    """Kill this process the first time that a task marked by `folder` comes by, after it has written its result."""
    path = folder / f"{task}.txt"
    path.write_text(str(task))
    if task in (2, 3) and not (marker := folder / f"died-{task}").exists():
        marker.touch()
        time.sleep(0.5)  # a nanny gives up on a worker that dies while it starts
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return task**2


def die(task):
    if task == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task):
    if task:
        try:
            raise ValueError(np.zeros(3))
        except ValueError as error:
            raise TrainingError("it failed", where=f"task {task}", fix="mend it") from error


def bug(task):
    return {}[task]


def warn(task):
    warnings.warn("look at this", NeymanWarning, stacklevel=1)
    warnings.warn("not ours", RuntimeWarning, stacklevel=1)
    return task


def name_of_worker(_):
    return distributed.get_worker().name


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_here_and_there_give_the_same_in_order(client):
    n = list(range(20))
    seen = []
    there = run_tasks(client, power, n, progress=lambda done, of: seen.append((done, of)))
    assert there == run_tasks(None, power, n) == [2**k for k in n]
    assert seen == [(k + 1, 20) for k in n]
    assert run_tasks(client, power, n, shared=3) == run_tasks(None, power, n, shared=3) == [3**k for k in n]
    assert run_tasks(client, power, []) == []
    assert dict(completed(client, power, n)) == {k: 2**k for k in n}


def test_no_more_tasks_than_agreed_are_in_flight(client, monkeypatch):
    monkeypatch.setattr(tasks, "IN_FLIGHT", 3)
    most, submit = [0], client.submit
    running = set()

    def counting(*arguments, **options):
        future = submit(*arguments, **options)
        running.add(future.key)
        most[0] = max(most[0], len(running))
        return future

    monkeypatch.setattr(client, "submit", counting)
    for done, (index, result) in enumerate(completed(client, power, range(30))):
        assert result == 2**index
        running.pop()
        assert done < 30
    assert most[0] == 3


def held(_=None):
    return list(tasks._HELD)


def test_what_is_shared_is_sent_once_and_forgotten(client, monkeypatch):
    table = {"x": np.arange(1000.0)}
    sent, run = [], client.run
    monkeypatch.setattr(client, "run", lambda *a, **k: sent.append(a[0].__name__) or run(*a, **k))
    assert run_tasks(client, total, range(10), shared=table) == [k + 499500.0 for k in range(10)]
    assert sent == ["_hold", "_forget"]
    assert set(map(tuple, run(held).values())) == {()}


def test_a_worker_that_has_nothing_is_sent_it(client, monkeypatch):
    """As a worker that has come later, or has pushed out what was held longest."""
    send = tasks._Run._send
    monkeypatch.setattr(tasks._Run, "_send", lambda run, to: to and send(run, to))
    assert run_tasks(client, total, range(9), shared={"x": np.ones(3)}) == [k + 3.0 for k in range(9)]
    for k in range(9):
        tasks._hold(str(k), k)
    assert held() == ["5", "6", "7", "8"]
    tasks._HELD.clear()


class Stranger:
    """Can be read in the process that made it, and nowhere else."""

    def __reduce__(self):
        return _read, (os.getpid(),)


def _read(pid):
    if os.getpid() != pid:
        raise RuntimeError("made elsewhere")
    return Stranger()


def test_what_a_worker_cannot_read_is_not_sent_forever(client):
    message = r"cannot take what the tasks share: [\s\S]*made elsewhere[\s\S]*tcp://127"
    with pytest.raises(InputError, match=message):
        run_tasks(client, power, range(3), shared=Stranger())


def test_a_module_that_workers_lack_is_named_and_kills_nobody(client, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    pids = client.run(os.getpid)
    with pytest.raises(ConfigError, match=r"cannot read its task: ModuleNotFoundError.*'only_here'"):
        run_tasks(client, only_here.double, [1, 2, 3])
    assert client.run(os.getpid) == pids


def test_a_result_may_take_longer_than_a_look(client, monkeypatch):
    monkeypatch.setattr(tasks, "_LOOK", 0.005)
    (result,) = run_tasks(client, np.ones, [5_000_000])
    assert result.sum() == 5_000_000


def test_lost_workers_change_nothing(client, tmp_path):
    """Both workers die at once, and with them all copies of what is shared and results not yet fetched."""
    client.wait_for_workers(2)
    assert run_tasks(client, die_once, range(8), shared=tmp_path) == [k**2 for k in range(8)]
    assert {path.name for path in tmp_path.glob("died-*")} == {"died-2", "died-3"}
    assert sorted(int(path.read_text()) for path in tmp_path.glob("*.txt")) == list(range(8))


def test_a_task_that_kills_its_workers_is_named(client, fragile):
    message = r"workers lost in sum 2 of 3: 2[\s\S]*more memory"
    with pytest.raises(InputError, match=message):
        run_tasks(client, die, range(3), label="sum")


def test_errors_come_through_as_they_are(client):
    with pytest.raises(TrainingError, match="it failed") as caught:
        run_tasks(client, fail, range(2))
    error = caught.value
    assert (error.what, error.where, error.expected, error.fix) == ("it failed", "task 1", None, "mend it")
    with pytest.raises(KeyError):
        run_tasks(client, bug, range(2))
    assert run_tasks(client, power, [1]) == [2]


def test_warnings_of_workers_are_given_here_once(client):
    with pytest.warns(NeymanWarning, match="look at this") as caught:
        assert run_tasks(client, warn, range(5)) == list(range(5))
    assert len(caught) == 1


def test_an_interruption_cancels_what_has_not_begun(client):
    def interrupt(*_):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(client, sleep, [0.1] * 400, progress=interrupt)
    assert run_tasks(client, power, [5]) == [32]
    assert time.monotonic() - start < 15


def test_tasks_go_where_the_resource_is():
    here = {"host": "127.0.0.1", "dashboard": False, "nthreads": 1}
    workers = {
        "plain": {"cls": distributed.Worker, "options": here},
        "gpu": {"cls": distributed.Worker, "options": {**here, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with (
        distributed.SpecCluster(workers, scheduler=scheduler) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert set(run_tasks(client, name_of_worker, range(12), resources={"GPU": 1})) == {"gpu"}
        assert set(run_tasks(client, name_of_worker, range(12))) == {"gpu", "plain"}


def test_workers_without_a_nanny(monkeypatch):
    """A lost one stays away: the other does its work, and without any the wait has an end."""
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1"]
    with distributed.SpecCluster({}, scheduler=scheduler) as cluster, distributed.Client(cluster) as client:
        started = [
            subprocess.Popen(
                [*command, "--no-dashboard", client.scheduler.address],
                stderr=subprocess.DEVNULL,
                cwd=Path.cwd(),
            )
            for _ in range(2)
        ]
        try:
            client.wait_for_workers(2, timeout=60)
            threading.Timer(0.3, started[0].kill).start()
            pids = run_tasks(client, sleep, [0.1] * 12)
            assert len(pids) == 12
            assert pids[-1] == started[1].pid
            monkeypatch.setattr(tasks, "PATIENCE", 0.3)
            monkeypatch.setattr(tasks, "_LOOK", 0.1)
            threading.Timer(0.3, started[1].kill).start()
            message = r"cluster is lost: there has been no worker for 0\.3 s[\s\S]*tasks were running"
            with pytest.raises(InputError, match=message):
                run_tasks(client, sleep, [0.2] * 12)
        finally:
            for process in started:
                process.kill()
                process.wait()


def test_a_cluster_of_ours_that_has_lost_all_workers_for_good_gets_new_ones(monkeypatch):
    import dask

    monkeypatch.setattr("neyman.cluster.tasks._LOOK", 0.2)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}), connect("local:1") as client:
        client.retire_workers(close_workers=True)  # closes the nanny too, which would start it again
        assert run_tasks(client, abs, [-1, -2]) == [1, 2]
