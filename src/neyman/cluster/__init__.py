"""Dask: a client of the cluster that a user names, and work that survives the loss of a worker."""
