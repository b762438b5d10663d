"""URLs are as good as paths; servers fail in many ways, and none of them loses an event."""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from fsspec.registry import _registry

from neyman.errors import ConfigError, InputError, MissingExtraError, NeymanError
from neyman.events import EventTable, process_files, remote
from neyman.events.columns import ParquetSource, RootSource, expand

sys.path.insert(0, str(Path(__file__).parent))

from web_server import serving

N, COLUMNS = 20_000, tuple(f"c{k}" for k in range(37))
read_root = partial(EventTable.from_root, features=["c1", "c30"])
read_parquet = partial(EventTable.from_parquet, features=["c1", "c30"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same 37 columns as a TTree, an RNTuple and Parquet, and files that are broken."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    columns = {name: rng.normal(size=N).astype(np.float32) for name in COLUMNS}
    with uproot.recreate(folder / "a.root") as file:
        tree = file.mktree("Events", dict.fromkeys(COLUMNS, "f4"))
        for start in range(0, N, 5000):
            tree.extend({name: values[start : start + 5000] for name, values in columns.items()})
    with uproot.recreate(folder / "n.root") as file:
        file.mkrntuple("Events", columns)
    pq.write_table(pa.table(columns), folder / "a.parquet", use_dictionary=False)
    whole = (folder / "a.root").read_bytes()
    (folder / "short.root").write_bytes(whole[: len(whole) // 2])
    (folder / "text.root").write_bytes(b"no ROOT file " * 100)
    (folder / "text.parquet").write_bytes(b"PAR1" + b"no Parquet " * 100 + b"PAR1")
    (folder / "below").mkdir()
    (folder / "below" / "b.parquet").write_bytes((folder / "a.parquet").read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02))


@pytest.fixture
def memory(folder):
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), "/remote", recursive=True)
    yield "memory://remote"
    fs.rm("/remote", recursive=True)


def equal(first: EventTable, second: EventTable) -> bool:
    return bool(np.array_equal(first.x, second.x) and np.array_equal(first.weight, second.weight))


@pytest.mark.parametrize(
    ("name", "read"), [("a.root", read_root), ("n.root", read_root), ("a.parquet", read_parquet)]
)
def test_two_of_37_columns_are_a_small_part_of_a_file(server, folder, memory, name, read):
    here, path = read(folder / name), f"/ok/{name}"
    server.sent.clear()
    assert equal(read(server.url + path), here)
    assert server.sent[path] < 0.12 * (folder / name).stat().st_size
    assert equal(read(f"{memory}/{name}"), here)
    assert equal(read([f"{memory}/{name}", folder / name]), EventTable.concat([here, here]))


@pytest.mark.parametrize(("name", "read"), [("a.root", read_root), ("a.parquet", read_parquet)])
def test_what_passes_is_tried_again(server, folder, name, read):
    for how in ("busy2", "cut1"):
        assert equal(read(f"{server.url}/{how}/{name}"), read(folder / name))
    with pytest.raises(InputError, match=rf"(?s)in 3 attempts: .*503 Service Unavailable.*busy99/{name}"):
        read(f"{server.url}/busy99/{name}")
    with pytest.raises(InputError, match=rf"(?s)in 3 attempts: ClientPayloadError.*cut99/{name}"):
        read(f"{server.url}/cut99/{name}")
    assert server.requests[f"/cut99/{name}"] == 3 * (1 + name.endswith("parquet"))  # asks for the size before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ok/none.root", r"there is no such file\n.*ok/none\.root"),
        ("ok/none.parquet", r"there is no such file\n.*ok/none\.parquet"),
        ("refused/a.root", r"the server refuses the file: the server answers 403.*\n.*refused/a\.root"),
        ("whole/a.root", r"(?s)sends the whole file where a part is asked for.*simplecache::"),
        ("whole/a.parquet", r"(?s)sends the whole file where a part is asked for.*simplecache::"),
        ("ok/short.root", r"short\.root"),
        ("ok/text.root", r"(?s)not a readable ROOT file.*ok/text\.root"),
        ("ok/text.parquet", r"(?s)cannot be read: .*ok/text\.parquet"),
    ],
)
def test_errors_name_the_url_and_are_no_oserror(server, path, message):
    read = read_parquet if path.endswith("parquet") else read_root
    with pytest.raises(InputError, match=message) as caught:
        read(f"{server.url}/{path}")
    assert not isinstance(caught.value, OSError)
    assert path in str(caught.value)


def test_a_part_that_is_missing_at_the_end_is_an_error(server, folder):
    """The tree of a file can be read before its end is: baskets beyond it are an error, not fewer events."""
    assert isinstance(_range(server, 0, 400), bytes)
    size = (folder / "a.root").stat().st_size
    with pytest.raises(InputError, match=r"the file ends early: 100 bytes where 500 should be[\s\S]*a\.root"):
        _range(server, size - 100, size + 400)


def _range(server, start: int, stop: int) -> bytes:
    from neyman.events.ranges import RangeSource

    with RangeSource(f"{server.url}/ok/a.root") as source:
        return source._fs.cat_ranges([source._file_path], [start], [stop])[0]


@pytest.mark.parametrize(("name", "read"), [("a.root", read_root), ("a.parquet", read_parquet)])
def test_a_copy_is_kept_of_a_file_that_is_sent_whole(server, folder, name, read):
    url = f"simplecache::{server.url}/whole/{name}"
    assert equal(read(url), read(folder / name))
    assert remote.version(url)
    with pytest.raises(InputError, match=r"(?s)there is no such file.*simplecache::.*none\.root"):
        read_root(f"simplecache::{server.url}/whole/none.root")


def test_nobody_answers(server, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE", 0.1)
    with pytest.raises(InputError, match=r"(?s)in 3 attempts: no answer within 0\.1 s.*silent/a\.root"):
        read_root(f"{server.url}/silent/a.root")
    with pytest.raises(InputError, match=r"(?s)in 3 attempts: ClientConnectorError.*127\.0\.0\.1:9/a\.root"):
        read_root("http://127.0.0.1:9/a.root")


def test_protocols_that_are_not_there(monkeypatch):
    with pytest.raises(InputError, match=r"(?s)there is no protocol htp://.*expected: .*http"):
        read_root("htp://host/a.root")
    monkeypatch.delitem(_registry, "root", raising=False)
    monkeypatch.setitem(sys.modules, "fsspec_xrootd", None)
    with pytest.raises(MissingExtraError, match=r"(?s)root:// needs fsspec-xrootd.*'neyman\[xrootd\]'"):
        read_root("root://host//a.root")
    for protocol in ("http", "https"):
        error = remote.failure(f"simplecache::{protocol}://host/a.root", ImportError("no aiohttp"))
        assert isinstance(error, MissingExtraError)
        assert "pip install 'neyman[http]'" in str(error)
    error = remote.failure("gs://a/b.root", ImportError("Please install gcsfs"))
    assert "Please install gcsfs" in str(error)


def test_patterns_folders_and_lists(server, folder, memory):
    assert [path.rpartition("/")[2] for path in expand(f"{memory}/*.root")] == [
        *("a.root", "n.root", "short.root", "text.root")
    ]
    assert [path.rpartition("remote/")[2] for path in expand(f"{memory}/", ".parquet")] == [
        *("a.parquet", "below/b.parquet", "text.parquet")
    ]
    assert expand(f"{server.url}/list/[an].root") == [f"{server.url}/list/{name}.root" for name in "an"]
    assert expand(f"{server.url}/list/b*", "") == [f"{server.url}/list/below"]
    assert expand(str(folder / "bel*"), ".parquet") == [str(folder / "below" / "b.parquet")]
    with pytest.raises(
        InputError, match=r"(?s)no file matches.*\*\.root.*do not list their files.*@files\.txt"
    ):
        expand(f"{server.url}/ok/*.root")
    with pytest.raises(InputError, match=r"(?s)in 3 attempts: the server answers 503.*busy99/\*\.root"):
        expand(f"{server.url}/busy99/*.root")
    with pytest.raises(InputError, match=r"(?s)no file matches.*remote/\*\.csv"):
        expand(f"{memory}/*.csv")


def test_lists_of_files(server, folder, tmp_path, memory):
    lines = f"# two files\n\na.root\n  {server.url}/ok/n.root\n"
    (folder / "files.txt").write_text(lines)
    expected = [str(folder / "a.root"), f"{server.url}/ok/n.root"]
    assert expand(f"@{folder / 'files.txt'}") == expected
    assert expand(f"@{server.url}/ok/files.txt") == [f"{server.url}/ok/a.root", expected[1]]
    # As the CERN Open Data portal gives them.
    index = [{"checksum": "adler32:0", "size": 1, "uri": one} for one in expected]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert expand([f"@{tmp_path / 'index.json'}", folder / "n.root"]) == [*expected, str(folder / "n.root")]
    (tmp_path / "names.json").write_text(json.dumps([f"{memory}/*t.root"]))
    assert len(expand(f"@{tmp_path / 'names.json'}")) == 2
    assert len(read_root(f"@{folder / 'files.txt'}")) == 2 * N


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", r"not a list of files[\s\S]*list\.txt[\s\S]*one file a line"),
        ("[1, 2]", "not a list of files"),
        ('{"files": []}', "not a list of files"),
        ("[", r"not readable JSON[\s\S]*list\.txt"),
        (None, r"list\.txt does not exist"),
    ],
)
def test_lists_that_are_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        expand(f"@{tmp_path / 'list.txt'}")


def test_version_follows_the_content(server, folder, memory):
    url = f"{server.url}/ok/changing.bin"
    (folder / "changing.bin").write_bytes(b"first")
    first = remote.version(url)
    assert remote.version(url) == first
    (folder / "changing.bin").write_bytes(b"other")
    assert remote.version(url) != first
    assert remote.version(f"{memory}/a.root") != remote.version(f"{memory}/n.root")
    with pytest.raises(InputError, match=r"there is no such file[\s\S]*none\.bin"):
        remote.version(f"{server.url}/ok/none.bin")
    with pytest.raises(InputError, match=r"in 3 attempts: the server answers 503"):
        remote.version(f"{server.url}/busy99/changing.bin")


@pytest.mark.parametrize(
    ("home", "name", "joined"),
    [
        ("/data", "a.root", "/data/a.root"),
        ("/data", "/b/a.root", "/b/a.root"),
        ("/data", "@lists/a.txt", "@/data/lists/a.txt"),
        ("https://host/data/", "a*.root", "https://host/data/a*.root"),
        ("root://host//data", "/b/a.root", "/b/a.root"),
        ("root://host//data", "@a.txt", "@root://host//data/a.txt"),
        ("root://host//data", "memory://a.root", "memory://a.root"),
    ],
)
def test_join(home, name, joined):
    assert remote.join(home, name) == joined


def count(events):
    return {
        events.metadata["dataset"]: {"n": len(events), "sum": float(np.asarray(events.c1).sum(dtype=float))}
    }


def test_processing_is_the_same_from_everywhere(server, folder, memory):
    coffea = pytest.importorskip("coffea.nanoevents")
    run = partial(process_files, processor=count, chunk_size=6000, schema=coffea.BaseSchema)
    expected = run({"d": folder / "a.root"})
    assert expected["d"]["n"] == N
    for files in (f"{server.url}/ok/a.root", f"{server.url}/list/[a].root", f"{memory}/a.root"):
        assert run({"d": files}) == expected
    assert run({"d": f"{server.url}/busy2/a.root"}, executor="threads") == expected
    with pytest.raises(InputError, match=r"there is no such file[\s\S]*none\.root"):
        run({"d": [f"{server.url}/ok/{name}.root" for name in ("a", "none")]})
    with pytest.raises(ConfigError, match=r"do not see the memory of this process[\s\S]*memory://"):
        run({"d": f"{memory}/a.root"}, executor="dask")


def test_no_chunk_is_lost_where_bad_files_are_skipped(server):
    """A server that fails after the files have been opened: coffea drops chunks for an OSError."""
    coffea = pytest.importorskip("coffea.processor")
    from coffea.nanoevents import BaseSchema

    from neyman.events.ranges import RangeSource

    runner = coffea.Runner(coffea.IterativeExecutor(status=False), schema=BaseSchema, skipbadfiles=True)
    item = coffea.executor.WorkItem("d", f"{server.url}/cut98/a.root", "Events", 0, N, b"", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # coffea tells of each attempt
        with pytest.raises(Exception, match="in 3 attempts") as caught:
            runner([item], count, uproot_options={"handler": RangeSource})
    causes = [caught.value]
    while causes[-1].__cause__ is not None and not isinstance(causes[-1], NeymanError):
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], InputError)
    assert not any(isinstance(cause, OSError) for cause in causes)


def test_sources_look_once_for_their_names(server):
    for source in (
        RootSource(f"{server.url}/ok/a.root", "Events"),
        ParquetSource(f"{server.url}/ok/a.parquet"),
    ):
        assert tuple(source.names) == COLUMNS
        before = sum(server.requests.values())
        assert source.names[3] == "c3"
        assert sum(server.requests.values()) == before
