"""Models on an inference server: our own client against a server that speaks the protocol, well and badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from aiohttp import web

from neyman import Scorer
from neyman.errors import ConfigError, MissingExtraError, WorkspaceError
from neyman.events.scoring import kserve
from neyman.events.scoring.signature import Signature
from neyman.events.scoring.triton import Address

LENGTH = "Inference-Header-Content-Length"


class Server:
    """A KServe v2 server of one model, y = (sum of x, first of x), which misbehaves as told."""

    def __init__(self):
        self.requests: list[int] = []
        self.at_once = self.most_at_once = 0
        self.faults: list[str] = []  # of the next inference requests, one each
        self.delay = 0.0
        self.metadata = {
            "name": "nn",
            "versions": ["1", "2", "10"],
            "inputs": [{"name": "x", "shape": [-1, 2], "datatype": "FP32"}],
            "outputs": [{"name": "y", "shape": [-1, 2], "datatype": "FP32"}],
        }
        self.configuration: dict | None = {"max_batch_size": 10}
        self.change = lambda y: y
        self.binary = True
        self.headers: dict[str, str] = {}  # of an answer that says that the server is busy
        self.ready = True

    def start(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.url = f"triton://127.0.0.1:{self.call(self._start())}/nn"
        return self

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self):
        self.call(self.runner.cleanup())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _start(self):
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v2/health/ready", self.health)
        app.router.add_get("/v2/models/nn{version:(/versions/\\d+)?}", self.describe)
        app.router.add_get("/v2/models/nn{version:(/versions/\\d+)?}/config", self.configure)
        app.router.add_post("/v2/models/nn{version:(/versions/\\d+)?}/infer", self.infer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    async def health(self, request):
        return web.Response(status=200 if self.ready else 400)

    async def describe(self, request):
        return web.json_response(self.metadata)

    async def configure(self, request):
        if self.configuration is None:
            return web.json_response({"error": "no such path"}, status=404)
        return web.json_response(self.configuration)

    async def infer(self, request):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            data = await request.read()
            await asyncio.sleep(self.delay)
            match self.faults.pop(0) if self.faults else "":
                case "drop":
                    request.transport.abort()
                    return web.Response()
                case "busy":
                    return web.json_response({"error": "too busy"}, status=503, headers=self.headers)
                case "elsewhere":
                    raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/")
                case "flood":
                    return await self.flood(request)
                case "half":
                    return await self.half(request)
                case fault if fault.startswith(("{", "[")):
                    return web.Response(body=fault.encode())
                case fault if fault.startswith("length"):
                    return web.Response(body=b"{}", headers={LENGTH: fault.split()[1]})
                case "slow":
                    await asyncio.sleep(5)
                case "refuse":
                    return web.json_response({"error": "unexpected shape for input 'x'"}, status=400)
                case "nonsense":
                    return web.Response(body=b"\xff\x00", headers={LENGTH: "2"})
                case "short":
                    return self.answer(np.zeros((2, 2), dtype="<f4"), rows=3)
            return self.compute(data, int(request.headers[LENGTH]))
        finally:
            self.at_once -= 1

    async def flood(self, request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                await answer.write(b"0" * (1 << 16))
        return answer

    async def half(self, request):
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"{")
        request.transport.abort()
        return answer

    def compute(self, data, length):
        header = json.loads(data[:length])
        (port,) = header["inputs"]
        assert port["datatype"] == "FP32"
        assert port["parameters"]["binary_data_size"] == len(data) - length
        x = np.frombuffer(data[length:], dtype="<f4").reshape(port["shape"])
        self.requests.append(len(x))
        return self.answer(self.change(np.stack([x.sum(axis=1), x[:, 0]], axis=1)))

    def answer(self, y, rows=None):
        y = y.astype("<f4")
        port = {"name": "y", "datatype": "FP32", "shape": [rows or len(y), *y.shape[1:]]}
        if not self.binary:
            return web.json_response({"outputs": [port | {"data": y.ravel().tolist()}]})
        port["parameters"] = {"binary_data_size": y.nbytes}
        other = {"name": "z", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
        header = json.dumps({"model_name": "nn", "outputs": [other, port]}).encode()
        body = header + b"\0" * 4 + y.tobytes()
        return web.Response(body=body, headers={LENGTH: str(len(header))})


@pytest.fixture
def server():
    running = Server().start()
    yield running
    kserve._LOOP.close()
    running.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, forget):
    monkeypatch.setattr(kserve, "_FIRST_WAIT", 0.005)
    forget()


@pytest.fixture
def many_rows():
    return np.random.default_rng(1).normal(size=(95, 2)).astype(np.float32)


def expected(x):
    return np.stack([x.sum(axis=1), x[:, 0]], axis=1)


def test_batches_travel_side_by_side_and_come_back_in_order(server, many_rows):
    server.delay = 0.02
    scorer = Scorer.load(server.url + "?concurrency=3", features=("a", "b"))
    assert scorer.outputs == ("nn",)
    assert np.array_equal(scorer(many_rows), expected(many_rows))
    assert sorted(server.requests) == [5] + [10] * 9  # as many at once as the server takes
    assert server.most_at_once == 3
    assert np.array_equal(scorer({"b": many_rows[:, 1], "a": many_rows[:, 0]}), expected(many_rows))
    assert scorer(many_rows[:0]).shape == (0, 2)


def test_a_smaller_batch(server, many_rows):
    Scorer.load(server.url, batch_size=4)(many_rows[:8])
    assert server.requests == [4, 4]


def test_threads_share_the_limit(server, many_rows):
    server.delay = 0.01
    scorer = Scorer.load(server.url + "?concurrency=2")
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: scorer(many_rows), range(4)):
            assert np.array_equal(scores, expected(many_rows))
    assert server.most_at_once == 2


def test_variations_travel_together(server, many_rows):
    out = Scorer.load(server.url).many({"nominal": many_rows, "up": many_rows, "down": many_rows[:3]})
    assert np.array_equal(out["up"], expected(many_rows))
    assert sum(server.requests) == 98


def test_the_version_is_fixed_when_the_scorer_is_made(server):
    scorer = Scorer.load(server.url)
    assert scorer._references[0].location.endswith("/nn?version=10")
    assert Scorer.load(server.url + "?version=2").digest != scorer.digest
    text = pickle.dumps(scorer)
    assert len(text) < 1000
    assert np.array_equal(pickle.loads(text)(np.ones((1, 2))), [[2.0, 1.0]])  # noqa: S301


def test_numbers_in_json(server, many_rows):
    server.binary = False
    np.testing.assert_allclose(Scorer.load(server.url)(many_rows), expected(many_rows), rtol=1e-6)


@pytest.mark.parametrize("fault", ["drop", "busy", "half"])
def test_lost_connections_and_busy_servers_are_tried_again(server, many_rows, fault):
    scorer = Scorer.load(server.url)
    server.faults = [fault] * 3
    assert np.array_equal(scorer(many_rows[:10]), expected(many_rows[:10]))


def test_a_slow_answer_is_tried_again(server, many_rows):
    scorer = Scorer.load(server.url + "?timeout=0.2")
    server.faults = ["slow"]
    assert np.array_equal(scorer(many_rows[:10]), expected(many_rows[:10]))


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (
            ["drop"] * 3,
            r"(?s)no answer to .*/infer in 3 attempts: \w+.*model 'nn' at http://127.*check that",
        ),
        (["busy"] * 3, "in 3 attempts: HTTP 503 too busy"),
        (["slow"] * 3, r"in 3 attempts: no answer within 0\.2 s"),
        (
            ["refuse"],
            r"the server refuses /v2/models/nn/versions/10/infer: HTTP 400 unexpected shape for input 'x'",
        ),
        (["nonsense"], "the answer is not what was asked for"),
        (["elsewhere"], "the server refuses .*: HTTP 307"),
        (["flood"], r"the answer to .*/infer is longer than \d+ bytes"),
        (["length -3"], "-3 bytes of JSON in an answer of 2"),
        (["length 7"], "7 bytes of JSON in an answer of 2"),
        (["[1]"], "the answer is not what was asked for"),
        (['{"outputs": [{"name": "y", "shape": [1e999], "datatype": "FP32"}]}'], "is not what was asked for"),
        (['{"outputs": [{"name": "y", "shape": [1], "parameters": [1]}]}'], "is not what was asked for"),
        (
            [
                '{"outputs": [{"name": "y", "shape": [4294967296, 4294967296], "datatype": "FP32", "data": []}]}'
            ],
            "y has 0 numbers for shape",
        ),
        (["[" * 100_000], "is not what was asked for"),
        (["short"], r"y has 4 numbers for shape \[3, 2\]"),
    ],
)
def test_faults_that_stay(server, many_rows, monkeypatch, faults, message):
    monkeypatch.setattr(kserve, "_LARGEST", 1 << 18)
    scorer = Scorer.load(server.url + "?retries=2&timeout=0.2")
    server.faults = list(faults)
    start = time.monotonic()
    with pytest.raises(WorkspaceError, match=message) as raised:
        scorer(many_rows[:10])
    assert raised.value.__cause__ is None or not isinstance(raised.value.__cause__, OSError)
    assert time.monotonic() - start < 3


def test_a_busy_server_says_when_to_come_back(server, many_rows):
    scorer = Scorer.load(server.url + "?timeout=0.3")
    for headers, least, most in (({"Retry-After": "9"}, 0.3, 2.0), ({"Retry-After": "soon"}, 0.0, 0.25)):
        server.faults, server.headers = ["busy"], headers
        start = time.monotonic()
        assert np.array_equal(scorer(many_rows[:10]), expected(many_rows[:10]))
        assert least <= time.monotonic() - start < most


def test_an_interrupt_ends_the_requests(server, many_rows):
    """Ctrl-C while the answers are awaited leaves nothing behind, and the scorer works on."""
    scorer = Scorer.load(server.url)
    server.delay = 0.3
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        scorer(many_rows)
    timer.join()
    server.delay = 0.0
    assert np.array_equal(scorer(many_rows[:10]), expected(many_rows[:10]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:-1], r"an array of shape \(9, 2\) for 10 events"),
        (lambda y: y[:, :1], r"(?s)of shape \(10, 1\) for 10 events.*\(10, 2\)"),
        (lambda y: y * np.nan, "the network output of 10 events is not finite"),
    ],
)
def test_wrong_answers(server, many_rows, change, message):
    server.change = change
    with pytest.raises(Exception, match=message):
        Scorer.load(server.url)(many_rows[:10])


def test_no_server():
    with pytest.raises(
        WorkspaceError, match="no answer to /v2/health/ready in 1 attempts: ClientConnectorError"
    ):
        Scorer.load("triton://127.0.0.1:9/nn?retries=0")
    kserve._LOOP.close()


def test_no_such_model(server):
    with pytest.raises(WorkspaceError, match="the server refuses /v2/models/other: HTTP 404"):
        Scorer.load(server.url.replace("/nn", "/other"))
    server.ready = False
    with pytest.raises(WorkspaceError, match="the server refuses /v2/health/ready: HTTP 400"):
        Scorer.load(server.url)


def test_other_servers_have_no_configuration(server, many_rows):
    server.configuration = None
    Scorer.load(server.url)(many_rows)
    assert server.requests == [95]


def test_the_configuration_may_hold_the_signature(server, many_rows):
    own = Signature(
        features=("a",), parameters=("tes",), parameter_range=((-1.0, 1.0),), width=2, outputs=2, kind="score"
    )
    server.configuration = {"parameters": {"neyman": {"string_value": own.model_dump_json()}}}
    scorer = Scorer.load(server.url)
    assert (scorer.features, scorer.parameters) == (("a",), ("tes",))
    scores = scorer({"a": many_rows[:, 0]}, {"tes": 0.5})
    assert np.array_equal(scores, np.stack([many_rows[:, 0] + np.float32(0.5), many_rows[:, 0]], axis=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, r"(?s)has the inputs  and the outputs y.*one input"),
        ({"outputs": [{"name": "y"}, {"name": "z"}]}, r"(?s)the outputs y, z.*\?output=NAME"),
        (
            {"inputs": [{"name": "x", "shape": [-1, 2], "datatype": "INT64"}]},
            r"(?s)maps INT64 \[-1, 2\].*FP32",
        ),
        ({"inputs": [{"name": "x", "shape": [-1, 3, 4], "datatype": "FP32"}]}, r"maps FP32 \[-1, 3, 4\]"),
    ],
)
def test_models_that_do_not_fit(server, changes, message):
    server.metadata |= changes
    with pytest.raises(WorkspaceError, match=message):
        Scorer.load(server.url)


def test_one_of_several_outputs(server, many_rows):
    server.metadata["outputs"].append({"name": "z", "shape": [-1], "datatype": "FP32"})
    assert np.array_equal(Scorer.load(server.url + "?output=y")(many_rows), expected(many_rows))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("triton://host", "is not the address of a model"),
        ("triton://host:8000/a/b", r"(?s)is not the address.*triton://host:8000/model\?version=1"),
        ("triton://host/a?speed=3", "unknown option 'speed'"),
        ("triton://host/a?retries=many", "retries is 'many'"),
        ("triton://host/a?timeout=0", "the limits in .* are not positive"),
        ("triton://host/a?timeout=inf", "the limits in .* are not positive"),
        ("triton://host:99999/a", r"(?s)is not the address of a model: .*expected: triton"),
        ("triton://[host/a", "is not the address of a model: "),
        ("triton://:8000/a", "is not the address of a model"),
        ("triton://host/%2e%2e", "is not the address of a model"),
        ("triton://host/a?version=..", "is not the address of a model"),
        ("triton://host/a#b", "is not the address of a model"),
    ],
)
def test_bad_addresses(url, message):
    with pytest.raises(ConfigError, match=message):
        Scorer.load(url)


def test_a_password_is_not_shown():
    with pytest.raises(ConfigError, match="an address holds no user and password") as raised:
        Scorer.load("triton://me:secret@host/nn")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["modèle", "a b&c", "x?y#z", "../../v2/repository/index", "per%cent"])
def test_names_stay_names(server, name):
    """Whatever is in a name, a request is about a model and a version of that name."""
    url = f"{server.url.removesuffix('/nn')}/{quote(name, safe='')}?version={quote('1/../../2')}"
    assert Address.parse(Address.parse(url).url) == Address.parse(url)
    assert Address.parse(url).model == name
    with pytest.raises(WorkspaceError, match="HTTP 404"):
        Scorer.load(url)
    output = Address.parse(f"{server.url}?output={quote('a&b=c+d é')}")
    assert Address.parse(output.url).output == "a&b=c+d é"


def test_the_digest_is_of_the_model_and_limits_are_of_the_scorer(server, many_rows):
    server.delay = 0.01
    many, one = (Scorer.load(server.url + f"?concurrency={n}") for n in (8, 1))
    assert many.digest == one.digest != Scorer.load(server.url + "?output=y&version=2").digest
    one(many_rows)
    assert server.most_at_once == 1
    many(many_rows)
    assert server.most_at_once > 1


@pytest.mark.parametrize(
    ("metadata", "configuration"),
    [
        ({"inputs": 7}, {}),
        ({"inputs": ["x"]}, {}),
        ({"inputs": [{"name": "x", "shape": ["a", "b"], "datatype": "FP32"}]}, {}),
        ({"inputs": [{"name": "x", "shape": [-1, 10**9], "datatype": "FP32"}]}, {}),
        ({"versions": 3}, {"max_batch_size": "many"}),
        ({}, {"parameters": [1]}),
        ({}, {"parameters": {"neyman": {"string_value": Signature(width=3).model_dump_json()}}}),
    ],
)
def test_odd_descriptions(server, metadata, configuration):
    server.metadata |= metadata
    server.configuration = configuration
    with pytest.raises(WorkspaceError, match="the description of the model 'nn' is broken"):
        Scorer.load(server.url)


def test_addresses_come_back():
    for url in ("triton://host:8000/nn", "tritons://host/nn?version=3&timeout=2.5&concurrency=4"):
        assert Address.parse(url).url == url
    assert Address.parse("tritons://host/nn").server == "https://host"


def test_a_model_on_a_server_has_one_backend(server):
    with pytest.raises(ConfigError, match="a model on a server is not evaluated by onnx"):
        Scorer.load(server.url, backend="onnx")
    with pytest.raises(ConfigError, match="the output of the members is part of the exported model 'nn'"):
        Scorer.load(server.url, aggregate="mean")


def test_without_aiohttp(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match=r"(?s)aiohttp is not installed.*neyman\[triton\]"):
        Scorer.load("triton://127.0.0.1:9/nn")
