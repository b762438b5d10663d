"""One cluster of two processes for all tests of this folder; workers that a test kills come back by their nannies."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("distributed")

from neyman.cluster import connect


@pytest.fixture(scope="session")
def client():
    with connect("local:2") as client:
        yield client


@pytest.fixture(autouse=True)
def one_thread():
    """As on the workers: sums over threads are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def killing(client):
    """Context manager that kills the first worker that has something to do."""

    @contextmanager
    def manager():
        client.wait_for_workers(2, timeout=60)
        pids = client.run(os.getpid)
        killed = threading.Event()

        def kill():
            while not killed.is_set():
                busy = [
                    address for address, tasks in client.processing().items() if tasks and address in pids
                ]
                if busy:
                    os.kill(pids[busy[0]], signal.SIGKILL)
                    killed.set()
                time.sleep(0.002)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield
            assert killed.is_set()
        finally:
            killed.set()
            thread.join()

    return manager


@pytest.fixture
def fragile(client):
    """A task that has killed two workers gets no third one."""

    def allow(dask_scheduler, n):
        before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, n
        return before

    before = client.run_on_scheduler(allow, n=1)
    yield
    client.run_on_scheduler(allow, n=before)
    client.wait_for_workers(2, timeout=60)
