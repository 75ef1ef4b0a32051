"""examples/server.py over HTTP: what it answers, under load, and what one request can do to another."""

import asyncio
import http.client
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from art_oat import AdaptivePolicy, OATClassifier, OperatingPoint
from tests.conftest import make_classifier
from tests.frontier.points import SLIM
from tests.networks import LAMBDAS

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

EXAMPLE = Path(__file__).parent.parent / "examples" / "server.py"
X = np.random.default_rng(0).random((64, 1, 6, 6), dtype=np.float32)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # other samples in the batch change rounding


@dataclass
class Served:
    """A server in a thread of this process, on a port of its own."""

    classifier: OATClassifier
    batcher: Any
    address: tuple[str, int]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and answer; a body of another kind than bytes goes as JSON."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        if isinstance(body, bytes) or body is None:
            connection.request("GET" if body is None else "POST", path, body, headers)
        else:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers.get("content-type") == "application/json"
        return response.status, json.loads(content) if is_json else content

    def predict(self, x: np.ndarray = X[:2], **dials: float) -> tuple[int, Any]:
        return self.ask("/predict", {"inputs": x.tolist(), **dials})


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("server_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where FastAPI looks annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def served(example: ModuleType) -> Iterator[Served]:
    classifier = make_classifier(widths=(0.5, 1.0))
    batcher = example.Batcher(classifier, seconds=0.02)
    app = example.make_app(example.Service(classifier, AdaptivePolicy(SLIM), batcher))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = threading.Thread(target=server.run, args=([listener],))
        running.start()
        yield Served(classifier, batcher, listener.getsockname())
        server.should_exit = True
        running.join()


@pytest.mark.slow(seconds=1)
def test_200_requests_16_at_once_are_answered_as_predict_answers_them_in_fewer_passes(served):
    draws = np.random.default_rng(1)
    dials = [{"lam": draws.choice(LAMBDAS[:3]), "width": draws.choice((0.5, 1.0))} for _ in range(200)]
    parts = [X[start : start + size] for start, size in draws.integers(1, 20, (200, 2))]
    before = served.batcher.nb_batches
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda x, point: served.predict(x, **point), parts, dials))
    for x, point, (status, answer) in zip(parts, dials, answers, strict=True):
        expected = served.classifier.predict(x, **point)
        assert status == 200
        assert {name: answer[name] for name in point} == point
        np.testing.assert_allclose(answer["scores"], expected, **TOLERANCE)
        assert answer["classes"] == np.argmax(answer["scores"], axis=1).tolist()
    assert served.batcher.nb_batches - before < 200


def test_requests_of_one_point_that_wait_together_go_through_one_pass(served):
    before = served.batcher.nb_batches
    with ThreadPoolExecutor(8) as clients:
        assert {status for status, _ in clients.map(lambda _: served.predict(X[:8], lam=0.3), range(8))} == {200}
    assert served.batcher.nb_batches - before < 8


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"lam": 7}, r"lam must .*, got 7"),
        ({"width": 0.3}, r"width must be one of .*, got 0.3"),
        ({"lam": "high"}, "body.lam: Input should be a valid number"),
        ({"lambda": 0.3}, "body.lambda: Extra inputs are not permitted"),
        ({"inputs": [[0.5]]}, r"inputs must have shape \(N, 1, 6, 6\), got \(1, 1\)"),
        ({"inputs": [[0.5], [0.5, 0.5]]}, "inputs must be an array"),
        ({"inputs": [["a"]]}, "inputs must hold real numbers"),
        ({"inputs": "a"}, "body.inputs: Input should be a valid list"),
        ({"inputs": (X[:1] + 9).tolist()}, r"inputs must lie within clip_values \[0"),
        ({"inputs": (X[:1] + np.nan).tolist()}, "inputs must be finite"),
        ({"lam": 0.3, "threat": 0.2}, "must name either lam and width or threat, got both"),
        ({"threat": 2}, r"threat must lie in \[0, 1\], got 2"),
        ({"max_latency_ms": 0.1}, "max_latency_ms = 0.1 is missed by 2.4"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why_in_one_line(served, body, message):
    status, answer = served.ask("/predict", {"inputs": X[:1].tolist(), **body})
    assert status == 422
    assert re.search(message, answer["detail"])
    assert "\n" not in answer["detail"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]"])
def test_what_is_no_request_is_refused(served, body):
    assert served.ask("/predict", body, **{"content-type": "application/json"})[0] == 422


def test_a_wrong_request_does_not_hurt_those_that_wait_with_it(served):
    bodies = [X[:2].tolist(), [[0.5]], (X[:2] + np.nan).tolist(), X[:2].tolist()] * 4
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda it: served.ask("/predict", {"inputs": it, "lam": 0.2}), bodies))
    expected = served.classifier.predict(X[:2], lam=0.2)
    assert [status for status, _ in answers] == [200, 422, 422, 200] * 4
    for _, answer in answers[::4] + answers[3::4]:
        np.testing.assert_allclose(answer["scores"], expected, **TOLERANCE)


def test_a_client_that_goes_away_does_not_hurt_those_that_wait_with_it(served):
    body = json.dumps({"inputs": X[:2].tolist(), "lam": 0.4}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with ThreadPoolExecutor(4) as clients:
        staying = [clients.submit(served.predict, X[:2], lam=0.4) for _ in range(4)]
        for content in (body, body[:20]):  # after all was said, and in the middle
            with socket.create_connection(served.address) as leaving:
                leaving.sendall(head.encode() + content)
        answers = [it.result() for it in staying]
    for status, answer in answers:
        assert status == 200
        np.testing.assert_allclose(answer["scores"], served.classifier.predict(X[:2], lam=0.4), **TOLERANCE)


def test_a_request_that_is_given_up_does_not_hurt_those_that_wait_with_it(example, served):
    async def both() -> np.ndarray:
        batcher, point = example.Batcher(served.classifier), OperatingPoint(0.3)
        leaving, staying = (asyncio.create_task(batcher.predict(X[part], point)) for part in (slice(2), slice(2, 5)))
        await asyncio.sleep(0)
        leaving.cancel()
        scores = await asyncio.wait_for(staying, 20)
        assert leaving.cancelled()
        assert batcher.nb_batches == 1
        return scores

    np.testing.assert_allclose(asyncio.run(both()), served.classifier.predict(X[2:5], lam=0.3), **TOLERANCE)


def test_a_full_batch_goes_at_once_and_its_clock_does_not_cut_the_next_one_short(example, served):
    async def run() -> None:
        batcher, point = example.Batcher(served.classifier, nb_samples=4), OperatingPoint(0.3)
        clocks: list[tuple[Callable[..., None], ...]] = []
        asyncio.get_running_loop().call_later = lambda _seconds, *call: clocks.append(call)  # no time passes
        await asyncio.gather(*(batcher.predict(X[:2], point) for _ in range(2)))
        assert batcher.nb_batches == 1
        next_one = asyncio.create_task(batcher.predict(X[:1], point))
        await asyncio.sleep(0)
        for (ring, *arguments), nb_batches in zip(clocks, (1, 2), strict=True):
            ring(*arguments)
            await asyncio.sleep(0)
            assert batcher.nb_batches == nb_batches
        await next_one

    asyncio.run(run())


def test_where_a_pass_fails_its_requests_are_told_and_the_next_are_answered(served, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("of the server, not of the request")

    with monkeypatch.context() as broken:
        broken.setattr(served.classifier, "predict", fail)
        assert served.predict()[0] == 500
    assert served.predict()[0] == 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_arrays_are_answered_as_predict_answers_them(served, dtype):
    x = (255 * X[:5]).astype(dtype) if dtype == np.uint8 else X[:5].astype(dtype)
    np.save(file := io.BytesIO(), x)
    status, answer = served.ask("/predict/npy?lam=0.3&width=0.5", file.getvalue())
    assert status == 200
    expected = served.classifier.predict(x, lam=0.3, width=0.5)
    np.testing.assert_allclose(np.load(io.BytesIO(answer)), expected, **TOLERANCE)


def test_bytes_that_are_no_array_are_refused_and_nothing_in_them_is_run(served):
    np.save(pickled := io.BytesIO(), np.array([{"a": 1}]), allow_pickle=True)
    huge = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000000000, 1), }"
    for content in (b"", b"text", pickled.getvalue(), huge.ljust(127) + b"\n"):
        status, answer = served.ask("/predict/npy", content)
        assert status == 422
        assert answer["detail"].startswith("the body must be a file of NumPy's format .npy")
    assert served.ask("/predict/npy?lam=7", pickled.getvalue())[0] == 422


@pytest.mark.parametrize(
    "dials", [{}, {"threat": 0.0}, {"threat": 1.0}, {"max_latency_ms": 5.0}, {"threat": 0.9, "max_latency_ms": 5.0}]
)
def test_the_policy_takes_the_point_where_a_threat_or_a_time_is_named(served, dials):
    expected = AdaptivePolicy(SLIM).point(**dials) if dials else served.classifier.model.default_point
    _, answer = served.predict(**dials)
    assert (answer["lam"], answer["width"]) == tuple(expected)
    np.testing.assert_allclose(answer["scores"], served.classifier.predict(X[:2], **vars(expected)), **TOLERANCE)


def test_the_server_says_what_it_serves_and_how_it_is(served):
    _, points = served.ask("/points")
    assert points["lambdas"] == list(LAMBDAS)
    assert points["widths"] == [0.5, 1.0]
    assert [(it["lam"], it["clean"], it["robust"]) for it in points["curve"]] == [
        (it.lam, it.clean, it.robust) for it in SLIM.points
    ]
    assert served.ask("/health")[1]["status"] == "ok"


@pytest.mark.slow
def test_a_process_that_is_terminated_first_answers_what_it_was_asked():
    command, shape = [sys.executable, str(EXAMPLE), "digits", "--port", "0"], (3, 16, 16)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        host, port = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline()).groups()
        served = Served(None, None, (host, int(port)))
        np.save(file := io.BytesIO(), np.full((5000, *shape), 0.5, np.float32))  # a second or so
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(served.ask, "/predict/npy", file.getvalue()) for _ in range(4)]
            while served.ask("/health")[1]["requests"] < 4:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert [(it.result()[0], np.load(io.BytesIO(it.result()[1])).shape) for it in answers] == [
                (200, (5000, 10))
            ] * 4
        process.wait(20)
    with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
        served.ask("/health")
