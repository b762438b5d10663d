"""`check_orthogonal`: no event counts twice; `Draft` asks it before it writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import WorkspaceError
from neyman.workspace import Draft, check_orthogonal, documents

BINNED = {
    "channels": [
        {
            "name": name,
            "samples": [
                {
                    "name": "sig",
                    "data": [5.0],
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                }
            ],
        }
        for name in ("SR", "CR")
    ],
    "observations": [{"name": "SR", "data": [5.0]}, {"name": "CR", "data": [5.0]}],
    "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    "version": "1.0.0",
}


def test_regions_apart():
    check_orthogonal({})
    check_orthogonal({"SR": {}})
    check_orthogonal(
        {
            "SR": {"sig": np.arange(5), "bkg": np.arange(100, 200)},
            "CR": {"sig": np.arange(5, 9), "bkg": np.arange(5)},  # ids of another sample are other events
            "VR": {"data": np.array([1, 2])},
        }
    )


def test_an_event_in_two_regions():
    regions = {
        "SR": {"sig": [1, 2], "bkg": np.array([50, 40, 40, 10, 20])},
        "VR": {"bkg": np.array([60])},
        "CR": {"sig": [3], "bkg": np.array([20, 30, 40, 40])},
    }
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)regions 'SR' and 'CR' share 2 events of sample 'bkg'.*first id 40.*make the selections exclusive",
    ):
        check_orthogonal(regions)


def test_an_id_twice_in_one_region_is_fine():
    check_orthogonal({"SR": {"sig": np.array([1, 1, 2])}, "CR": {"sig": np.array([3, 3])}})


def test_ids_of_run_and_event():
    run, event = np.array([1, 1, 2]), np.array([7, 8, 7])
    regions = {"SR": {"data": (run, event)}, "CR": {"data": (np.array([2, 1]), np.array([8, 9]))}}
    check_orthogonal(regions)
    regions["VR"] = {"data": (np.array([3, 2]), np.array([8, 7]))}
    with pytest.raises(
        WorkspaceError, match=r"(?s)'SR' and 'VR' share 1 events of sample 'data'.*id \(2, 7\)"
    ):
        check_orthogonal(regions)


def test_empty_regions():
    check_orthogonal({"SR": {"sig": []}, "CR": {"sig": [1]}, "VR": {"sig": np.array([])}})
    check_orthogonal({"SR": {"sig": ([], [])}, "CR": {"sig": ([], [])}})


def test_large_ids_are_not_rounded():
    big = 2**53
    check_orthogonal(
        {"SR": {"s": np.array([big], dtype=np.int64)}, "CR": {"s": np.array([big + 1], dtype=np.uint64)}}
    )
    top = np.array([2**64 - 1], dtype=np.uint64)
    check_orthogonal({"SR": {"s": top}, "CR": {"s": top - np.uint64(1)}})
    with pytest.raises(WorkspaceError, match=rf"(?s)share 1 events.*first id {2**64 - 1}"):
        check_orthogonal({"SR": {"s": top}, "CR": {"s": top}})
    with pytest.raises(
        WorkspaceError, match=r"(?s)'s' are signed in one region and above 9223372036854775807.*int64"
    ):
        check_orthogonal({"SR": {"s": top}, "CR": {"s": np.array([-1])}})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([0.5, 1.0]), r"(?s)event ids are float64.*region CR, sample sig.*integers"),
        (np.array([True, False]), "event ids are bool"),
        (np.array(["a"]), "event ids are <U1"),
        (np.zeros((2, 2), dtype=int), r"(?s)event ids have shape \(2, 2\).*tuple of such arrays"),
        (3, r"event ids have shape \(\)"),
        ((), r"event ids have shape \(\)"),
        (([1, 2], [1]), "columns of the event ids have 2, 1 events"),
        (([1, 2], [1, 2]), r"(?s)sample 'sig' have different numbers of columns: SR 1, CR 2.*\(run, event\)"),
    ],
)
def test_ids_that_are_none(ids, message):
    with pytest.raises(WorkspaceError, match=message):
        check_orthogonal({"SR": {"sig": np.arange(3)}, "CR": {"sig": ids}})


IDS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-(2**62), 2**62) | st.integers(0, 3)), max_size=8)


@given(IDS, IDS, IDS)
def test_it_agrees_with_sets(one, two, three):
    ids = {
        f"R{i}": {"s": tuple(np.array([row[k] for row in rows], dtype=np.int64) for k in (0, 1))}
        for i, rows in enumerate((one, two, three))
    }
    a, b, c = set(one), set(two), set(three)
    if a & b or a & c or b & c:
        with pytest.raises(WorkspaceError, match="share"):
            check_orthogonal(ids)
    else:
        check_orthogonal(ids)


# Draft -------------------------------------------------------------------------------------------------------


def test_a_draft_whose_regions_share_events_is_not_written(tmp_path):
    entries = {"SR": {"sig": np.array([1, 2])}, "CR": {"sig": np.array([2])}}
    with pytest.raises(WorkspaceError, match="regions 'SR' and 'CR' share 1 events of sample 'sig'"):
        Draft(binned=BINNED, entries=entries).write(tmp_path / "ws")
    assert list(tmp_path.iterdir()) == []
    entries["CR"] = {"sig": np.array([3])}
    with_entries = Draft(binned=BINNED, entries=entries).write(tmp_path / "ws")
    without = Draft(binned=BINNED).write(tmp_path / "again")
    assert with_entries.binned == without.binned == BINNED
    assert with_entries.manifest.files == without.manifest.files


def test_a_channel_may_share_events_with_the_one_that_it_replaces(tmp_path):
    channel = {
        "name": "unbinned",
        "data": {"file": "d"},
        "reference": {"file": "r"},
        "replaces": ["SR"],
        "samples": [{"name": "sig", "yield": 5.0, "log_ratio": "sig", "modifiers": []}],
    }
    unbinned = documents.Unbinned.model_validate(
        {"channels": [channel], "measurements": BINNED["measurements"]}
    )
    ids = {"sig": np.array([1, 2])}
    Draft(BINNED, unbinned, entries={"SR": ids, "unbinned": ids, "CR": {"sig": [3]}}).write(tmp_path / "ws")
    with pytest.raises(WorkspaceError, match="regions 'SR' and 'CR' share 1 events"):
        Draft(BINNED, unbinned, entries={"SR": ids, "unbinned": ids, "CR": {"sig": [1]}}).write(
            tmp_path / "b"
        )
