"""Dask: a client of the cluster that a user names, and work that survives the loss of a worker.

* `connect` gives a client of a local, running or batch cluster and closes what it has started.
* `run_tasks` calls a function with each of many arguments, here or on the workers, and returns what it returns, in
  order. `completed` gives the results as they come.
* `gpu` says by which resource tasks are kept to workers with a GPU.

Nothing here changes a number: a task's result depends on its argument alone, so it is the same in this process, on
any number of workers, and after the loss of some.
"""

from neyman.cluster.connect import connect, gpu
from neyman.cluster.tasks import completed, run_tasks

__all__ = ["completed", "connect", "gpu", "run_tasks"]
