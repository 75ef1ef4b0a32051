"""Serve every operating point of one network over HTTP, from one process; requests of a point are answered together.

python examples/server.py              # the digits that come with the library
python examples/server.py runs/mine    # what art-oat train and art-oat evaluate have left there
python examples/server.py --smoke      # asks itself, 16 requests at once, and says how long answers take

Needs fastapi and uvicorn (pip install ".[serve]" in the checkout). Put it behind what limits and knows your clients.

curl localhost:8000/points
curl localhost:8000/predict --json '{"inputs": [[[[0, 0.5, ...], ...]]], "lam": 0.3}'
curl localhost:8000/predict --json '{"inputs": [[[[0, 0.5, ...], ...]]], "threat": 0.2, "max_latency_ms": 5}'
curl "localhost:8000/predict/npy?lam=0.3" --data-binary @images.npy > scores.npy
"""

import argparse
import asyncio
import http.client
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from art_oat import AdaptivePolicy, OATClassifier, OperatingPoint, pretrained
from art_oat.checks import as_array, input_faults, one_line, range_faults, refuse

Array = NDArray[Any]
Waiting = list[tuple[Array, asyncio.Future[Array]]]


class Batcher:
    """Answers requests of the same point by one pass: those that come within a short time of each other."""

    def __init__(self, classifier: OATClassifier, *, seconds: float = 0.005, nb_samples: int = 64) -> None:
        self.classifier, self.seconds, self.nb_samples = classifier, seconds, nb_samples
        self.nb_requests = self.nb_batches = 0
        self._waiting: dict[tuple[OperatingPoint, np.dtype[Any]], Waiting] = {}  # bytes and floats do not mix
        self._running: set[asyncio.Task[None]] = set()  # the loop alone would let go of them

    async def predict(self, x: Array, point: OperatingPoint) -> Array:
        """Return the scores of checked inputs, together with others: after so many seconds, or with so many samples."""
        loop, key = asyncio.get_running_loop(), (point, x.dtype)
        answer: asyncio.Future[Array] = loop.create_future()
        waiting = self._waiting.setdefault(key, [])
        waiting.append((x, answer))
        self.nb_requests += 1
        if sum(len(it) for it, _ in waiting) >= self.nb_samples:
            self._start(key, waiting)
        elif len(waiting) == 1:
            loop.call_later(self.seconds, self._start, key, waiting)
        return await answer

    def _start(self, key: tuple[OperatingPoint, np.dtype[Any]], waiting: Waiting) -> None:
        if self._waiting.get(key) is waiting:  # else it was full before its time was over
            del self._waiting[key]
            task = asyncio.create_task(self._answer(key[0], waiting))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, point: OperatingPoint, waiting: Waiting) -> None:
        self.nb_batches += 1
        inputs, ends = np.concatenate([x for x, _ in waiting]), np.cumsum([len(x) for x, _ in waiting])
        try:
            scores = await asyncio.to_thread(self.classifier.predict, inputs, lam=point.lam, width=point.width)
            parts = np.split(scores, ends[:-1])
        except Exception as error:  # noqa: BLE001 - each of them is told, and the next batch is another matter
            parts = [RuntimeError(f"could not predict: {one_line(error)}") for _ in waiting]
        for (_, answer), own in zip(waiting, parts, strict=True):
            if not answer.done():  # what asked may have given up
                answer.set_exception(own) if isinstance(own, Exception) else answer.set_result(own)


class Dials(BaseModel):
    """A point, or what the policy takes one by; where nothing is named, the default point of the classifier."""

    model_config = ConfigDict(extra="forbid")
    lam: float | None = None
    width: float | None = None
    threat: float | None = None
    max_latency_ms: float | None = None


class Inputs(Dials):
    inputs: list[Any]


@dataclass
class Service:
    """Says which point a request is for, whether it can be answered, and the answer."""

    classifier: OATClassifier
    policy: AdaptivePolicy
    batcher: Batcher

    async def predict(self, inputs: Any, dials: Dials) -> tuple[OperatingPoint, Array]:
        point, x = self._point(dials), as_array(inputs, "inputs")
        refuse(input_faults(x, self.classifier.input_shape, "inputs"))
        if x.dtype != np.uint8:  # k stands for k / 255
            refuse(range_faults(x, self.classifier.clip_values, "inputs"))
            x = x.astype(np.float32)
        return point, await self.batcher.predict(x, point)

    def _point(self, dials: Dials) -> OperatingPoint:
        chosen = {name: it for name in ("threat", "max_latency_ms") if (it := getattr(dials, name)) is not None}
        if not chosen:
            return self.classifier.model.point(dials.lam, dials.width)
        if (dials.lam, dials.width) != (None, None):
            raise ValueError(f"a request must name either lam and width or {' and '.join(chosen)}, got both.")
        return self.policy.point(**chosen)


def make_app(service: Service) -> FastAPI:
    app, batcher, model = FastAPI(title="One network, two dials"), service.batcher, service.classifier.model

    @app.post("/predict")
    async def predict(given: Inputs) -> dict[str, Any]:
        point, scores = await service.predict(given.inputs, given)
        return {**asdict(point), "classes": scores.argmax(axis=1).tolist(), "scores": scores.tolist()}

    @app.post("/predict/npy")
    async def predict_npy(request: Request, dials: Annotated[Dials, Query()]) -> Response:
        try:
            inputs = np.load(io.BytesIO(await request.body()), allow_pickle=False)
        except Exception as error:  # noqa: BLE001 - whatever bytes of another kind make of it
            raise ValueError(f"the body must be a file of NumPy's format .npy: {one_line(error)}") from None
        point, scores = await service.predict(inputs, dials)
        np.save(file := io.BytesIO(), scores)
        return Response(file.getvalue(), headers={"x-lam": str(point.lam), "x-width": str(point.width)})

    @app.get("/points")
    async def points() -> dict[str, Any]:
        curve = [asdict(point) for point in service.policy.curve.points]
        return {"lambdas": model.lambdas, "widths": model.widths, "farthest": model.farthest, "curve": curve}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "requests": batcher.nb_requests, "batches": batcher.nb_batches}

    @app.exception_handler(ValueError)
    @app.exception_handler(TypeError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(RequestValidationError)
    async def not_understood(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}." for fault in error.errors()]
        return JSONResponse({"detail": " ".join(faults)}, status_code=422)

    return app


def ask(address: tuple[str, int], body: str) -> tuple[dict[str, Any], float]:
    """Return what is answered to a request for predictions, and the seconds that it took."""
    connection, started = http.client.HTTPConnection(*address, timeout=60), time.perf_counter()
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer, time.perf_counter() - started


def load(classifier: OATClassifier, x: Array, address: tuple[str, int]) -> str:
    """Ask 200 times, 16 at once, at mixed points; say how many answers are wrong, and how long they took."""
    model, draws = classifier.model, np.random.default_rng(0)
    parts = [x[start : start + size] for start, size in draws.integers(1, 9, (200, 2))]
    points = [{"lam": draws.choice(model.lambdas), "width": draws.choice(model.widths)} for _ in parts]
    bodies = [json.dumps({"inputs": part.tolist(), **point}) for part, point in zip(parts, points, strict=True)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda body: ask(address, body), bodies))
    expected = [classifier.predict(part, **point) for part, point in zip(parts, points, strict=True)]
    is_right = [np.allclose(it["scores"], own, atol=1e-4) for (it, _), own in zip(answers, expected, strict=True)]
    half, most = 1000 * np.percentile([seconds for _, seconds in answers], (50, 99))
    return f"200 requests, 16 at once: {is_right.count(False)} wrong, p50 {half:.0f} ms, p99 {most:.0f} ms"


def main(given: argparse.Namespace) -> None:
    dial = pretrained(given.network)
    batcher = Batcher(dial.classifier)
    app = make_app(Service(dial.classifier, AdaptivePolicy(dial.curve), batcher))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server((given.host, 0 if given.smoke else given.port)) as listener:
        print("serving at http://{}:{}, described at /docs".format(*listener.getsockname()), flush=True)
        if given.smoke:
            running = threading.Thread(target=server.run, args=([listener],))
            running.start()
            x = dial.recipe.dataset().test.x
            print(f"{load(dial.classifier, x, listener.getsockname())}, {batcher.nb_batches} passes")
            server.should_exit = True
            running.join()
        else:
            server.run([listener])  # until it is interrupted or terminated; what was asked before is answered


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="digits", help="as art_oat.pretrained takes it; must be measured")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--smoke", action="store_true", help="answer 200 requests, 16 at once, and end")
    main(parser.parse_args())
