"""connect: which cluster a name means, what its workers are like, and what is said when there is none."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import dask
import distributed
import pytest

import neyman.cluster.code
from neyman.cluster import connect, gpu, run_tasks
from neyman.cluster.connect import MALLOC, _local
from neyman.errors import ConfigError, MissingExtraError


def environment(_):
    return {name: os.environ.get(name) for name in (*MALLOC, "CUDA_VISIBLE_DEVICES")}


def test_local_workers_keep_freed_memory_and_are_reached_from_here_alone(client):
    kept = dict.fromkeys(MALLOC, "268435456")
    assert all(kept.items() <= found.items() for found in run_tasks(client, environment, range(4)))
    workers = client.scheduler_info(n_workers=-1)["workers"]
    assert [worker["nthreads"] for worker in workers.values()] == [1, 1]
    assert all(address.startswith("tcp://127.0.0.1:") for address in (*workers, client.scheduler.address))


def test_ctrl_c_in_the_terminal_leaves_local_workers_to_their_client(client):
    pids = client.run(os.getpid)
    for pid in pids.values():
        os.kill(pid, signal.SIGINT)
    assert run_tasks(client, abs, range(20)) == list(range(20))
    assert client.run(os.getpid) == pids


def test_address_client_and_cluster_stay_open(client):
    address = client.scheduler.address
    for target in (address, address.removeprefix("tcp://"), client, client.cluster):
        with connect(target) as found:
            assert run_tasks(found, abs, [-1, -2]) == [1, 2]
    assert client.status == "running"
    assert run_tasks(client, abs, [-3]) == [3]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lokal:2", r"'lokal:2' is no Dask cluster[\s\S]*local:4, or an address"),
        ("htcondr", r"no Dask cluster[\s\S]*htcondor:4"),
        ("local:0", r"'local:0' is no number of workers[\s\S]*local:4"),
        ("slurm:", r"no number of workers[\s\S]*slurm:4"),
        ("nonsense://", "no Dask scheduler answers"),
        (3, "3 is no Dask cluster"),
    ],
)
def test_a_wrong_name_is_explained(target, message):
    with pytest.raises(ConfigError, match=message), connect(target):
        pass


def test_a_cluster_without_workers_is_not_waited_for_in_vain():
    options = {"n_workers": 0, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(**options) as cluster,
        pytest.raises(ConfigError, match=r"no Dask worker has come within 0\.1 s[\s\S]*dask worker"),
        connect(cluster, timeout=0.1),
    ):
        pass


def test_workers_with_other_code_are_refused(client, monkeypatch):
    monkeypatch.setattr(neyman.cluster.code, "code", lambda: "other")
    message = r"another version of neyman[\s\S]*tcp://[\s\S]*restart the workers"
    with pytest.raises(ConfigError, match=message), connect(client):
        pass
    # A worker that comes later is found out by the first task that it gets.
    monkeypatch.undo()
    monkeypatch.setattr("neyman.cluster.tasks.code", lambda: "other")
    with pytest.raises(ConfigError, match="another version of neyman"):
        run_tasks(client, abs, [1])


def test_a_worker_without_neyman_is_named():
    answers = {"tcp://a:1": ModuleNotFoundError("No module named 'neyman'")}
    stranger = SimpleNamespace(run=lambda *_, **__: answers)
    with pytest.raises(ConfigError, match=r"cannot import neyman[\s\S]*tcp://a:1[\s\S]*same neyman"):
        neyman.cluster.code.check_workers(stranger)


def test_a_worker_that_is_lost_meanwhile_is_no_obstacle():
    answers = {"tcp://a:1": OSError("Timed out trying to connect"), "tcp://b:1": None}
    neyman.cluster.code.check_workers(SimpleNamespace(run=lambda *_, **__: answers))


def test_every_local_worker_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with connect("local", gpus=True) as client:
        assert gpu(client) == {"GPU": 1}
        found = client.run(environment, None)
        assert sorted(one["CUDA_VISIBLE_DEVICES"] for one in found.values()) == ["3", "5"]
    with pytest.raises(ConfigError, match=r"3 workers with a GPU each, and 2 GPUs[\s\S]*local:2"):
        _local(distributed, 3, gpus=True)


def test_gpus_that_are_not_there_are_missed(client, monkeypatch):
    with pytest.raises(ConfigError, match=r"no worker offers a GPU[\s\S]*GPU=1"), connect(client, gpus=True):
        pass
    monkeypatch.setattr(sys.modules["neyman.cluster.connect"], "_devices", list)
    for target in ("local", "local:2"):
        with pytest.raises(ConfigError, match="no GPU on this machine"), connect(target, gpus=True):
            pass


def test_cpu_workers_offer_no_gpu(client):
    assert gpu(client) is None
    assert gpu(None) is None
    with pytest.raises(ConfigError, match=r"no worker offers \{'GPU': 1\}[\s\S]*--resources"):
        run_tasks(client, abs, [1], resources={"GPU": 1})


@pytest.fixture
def submit_node(monkeypatch, tmp_path):
    """A machine on which jobs can be submitted, if badly."""
    for command in ("condor_submit", "sbatch"):
        (tmp_path / command).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


class Queue:
    """Stands for a batch system, whose jobs are those of `client`; remembers what it was asked for."""

    asked: dict[str, object]
    scheduler_address: str
    status = None

    def __init__(self, **options):
        type(self).asked = options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def scale(self, jobs):
        self.asked["jobs"] = jobs


@pytest.mark.usefixtures("submit_node")
@pytest.mark.parametrize(("kind", "name"), [("htcondor", "HTCondorCluster"), ("slurm", "SLURMCluster")])
def test_batch_jobs_are_asked_for_as_configured(client, monkeypatch, kind, name):
    monkeypatch.setattr(Queue, "scheduler_address", client.scheduler.address, raising=False)
    monkeypatch.setattr(sys.modules["neyman.cluster.connect"], "offering", lambda *_: 1)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(**{name: Queue}))
    mine = {"job-script-prologue": ["source setup.sh"], "worker_extra_args": ["--lifetime", "55m"]}
    with dask.config.set({"jobqueue": {kind: mine}}):
        with connect(f"{kind}:20", gpus=True) as found:
            assert run_tasks(found, abs, [-1]) == [1]
        assert Queue.asked["jobs"] == 20
        assert Queue.asked["job_script_prologue"] == [
            "source setup.sh",
            "export MALLOC_MMAP_THRESHOLD_=268435456",
            "export MALLOC_TRIM_THRESHOLD_=268435456",
        ]
        assert Queue.asked["worker_extra_args"] == ["--lifetime", "55m", "--resources", "GPU=1"]
        with connect(kind):
            assert Queue.asked["jobs"] == 1
            assert "worker_extra_args" not in Queue.asked


@pytest.mark.usefixtures("submit_node")
def test_the_job_of_dask_jobqueue_itself_has_what_is_asked_for(monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(jobqueue.JobQueueCluster, "scale", lambda *_, **__: None)
    from neyman.cluster.connect import _queue

    mine = {"cores": 1, "memory": "2GB", "disk": "1GB", "scheduler-options": {"dashboard": False}}
    with dask.config.set({f"jobqueue.htcondor.{key}": value for key, value in mine.items()}):
        with _queue("htcondor", 1, gpus=True) as cluster:
            script = cluster.job_script()
        assert "export MALLOC_MMAP_THRESHOLD_=268435456; " in script
        assert "--resources GPU=1" in script


def test_no_jobs_are_waited_for_where_none_can_be_submitted(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=Queue))
    monkeypatch.setenv("PATH", str(tmp_path))
    message = r"slurm is not on this machine: there is no sbatch[\s\S]*submit node"
    with pytest.raises(ConfigError, match=message), connect("slurm:2"):
        pass


@pytest.mark.usefixtures("submit_node")
def test_an_unconfigured_batch_system_is_explained(monkeypatch):
    def refuse(**_):
        raise ValueError("You must specify how much cores and memory per job you want to use")

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=refuse))
    message = r"cannot be described: You must specify[\s\S]*jobqueue.slurm[\s\S]*jobqueue.yaml"
    with pytest.raises(ConfigError, match=message), connect("slurm:2"):
        pass


@pytest.mark.parametrize(("module", "target"), [("dask_jobqueue", "htcondor:2"), ("distributed", "local:1")])
def test_a_missing_extra_is_named(monkeypatch, module, target):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module}[\s\S]*neyman\[batch\]"), connect(target):
        pass
