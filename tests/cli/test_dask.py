"""`--dask`: the numbers of a command do not depend on it."""

from __future__ import annotations

import pytest

pytest.importorskip("distributed")

from neyman.cluster import connect


@pytest.fixture(scope="module")
def address():
    with connect("local:1") as client:
        yield client.scheduler.address


@pytest.mark.parametrize(
    "command",
    [
        ("toys", 40),
        ("profile", "--points", 5),
        ("feldman-cousins", "--points", 3, "--toys", 20),
        ("coverage", "--toys", 20),
        ("limit", "--toys", 20, "--range", 1, 2, "--points", 2),
        ("significance", "--toys", 20),
        ("gof", "--toys", 20),
    ],
    ids=lambda command: command[0],
)
def test_the_numbers_are_the_same_on_workers(as_json, pyhf_file, address, command):
    name, *options = command
    here = as_json(name, pyhf_file, *options)
    assert as_json(name, pyhf_file, *options, "--dask", address) == here


def test_a_wrong_cluster_is_explained(call, pyhf_file):
    result = call("toys", pyhf_file, 5, "--dask", "htcondr", code=1)
    assert "'htcondr' is no Dask cluster" in result.stderr
