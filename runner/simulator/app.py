"""The simulator's routes: an Images API, and `/simulator/...` to look at its bill and to ask for faults.

Owns the order of things in a request: key, validity, faults, limits, time, image, bill, answer. Each of them is a
module of its own; what is shared by all requests is in `Simulator`. The routes of files and batches are `filing`'s and
`batching`'s.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import math
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner import catalog
from runner.catalog import Model
from runner.errors import InputError
from runner.simulator import Settings, intake, latency, problems, tokens, validate
from runner.simulator.answers import ImagesAnswer, compose
from runner.simulator.batches import Batches
from runner.simulator.batching import Batching
from runner.simulator.bill import Bill
from runner.simulator.calls import Calls, Unanswered
from runner.simulator.depot import Depot
from runner.simulator.faults import REFUSALS, Counters, Faults, refusal
from runner.simulator.filing import Filing
from runner.simulator.intake import Files, Intake
from runner.simulator.limits import Limits
from runner.simulator.problems import Problem
from runner.simulator.studio import Shot, Studio
from runner.simulator.validate import Order
from runner.simulator.wire import Wire
from runner.simulator.work import Workshop

_Reading = Callable[[Request], AbstractAsyncContextManager[tuple[Order, Files]]]
_log = logging.getLogger("runner.simulator")


class Simulator:
    """What the requests of one server share."""

    def __init__(self, settings: Settings) -> None:
        """Raises InputError: the settings do not make sense."""
        if not 0 < settings.window_s < math.inf:
            raise InputError("the window of the limits is not a number above 0", hint="60 is a minute")
        if not 0 <= settings.batch_time_s < math.inf or not 0 < settings.batch_window_s < math.inf:
            raise InputError("a batch's time or window is no number of seconds", hint="2 and 86400, for example")
        counts = ("images_per_minute", "tokens_per_minute", "requests_per_minute", "payload_kb", "batch_queue_tokens")
        for name in counts:
            value: int | None = getattr(settings, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint="give a count of at least 1, or leave it out")
        self.settings = settings
        self.catalog = catalog.load(settings.catalog)
        self.latency = latency.parse(settings.latency_s, settings.seed)
        self.faults = Faults(settings.seed, settings.faults)
        self.limits = Limits(
            images_per_minute=settings.images_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            requests_per_minute=settings.requests_per_minute,
            window_s=settings.window_s,
        )
        self.samples = Counters()
        self.bill = Bill(settings.bill_path)
        self.studio = Studio(seed=settings.seed, art=settings.art, payload_kb=settings.payload_kb)
        self.depot = Depot()
        self.intake = Intake(self.catalog, self.studio.run, self.depot.open)
        self.calls = Calls(api_key=settings.api_key, faults=self.faults, bill=self.bill)
        workshop = Workshop(
            catalog=self.catalog,
            intake=self.intake,
            faults=self.faults,
            studio=self.studio,
            bill=self.bill,
            depot=self.depot,
            next_sample=lambda thing: self.samples.next(thing),
            publish=self._publish,
        )
        self.batches = Batches(
            workshop,
            seed=settings.seed,
            batch_time_s=settings.batch_time_s,
            window_s=settings.batch_window_s,
            queue_tokens=settings.batch_queue_tokens,
        )
        self._counts_inputs = self.catalog.counts_input_images("simulator")
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Ends the workers and closes the bill; no file is left."""
        self.studio.close()
        self.bill.close()
        self.depot.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.edits, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/simulator/bill", self.show_bill),
            Route("/simulator/bill/entries", self.show_entries),
            Route("/simulator/reset", self.reset, methods=["POST"]),
            Route("/simulator/faults", self.show_faults),
            Route("/simulator/faults", self.set_faults, methods=["POST"]),
            Route("/simulator/images/{name}", self.show_image),
            *Filing(self.depot, self.calls, self.studio.run).routes(),
            *Batching(self.batches, self.depot, self.calls).routes(),
        ]
        handlers: Any = {Problem: _on_problem, HTTPException: _on_http_exception}
        return _Stamped(Starlette(routes=routes, exception_handlers=handlers))

    async def generations(self, request: Request) -> Any:
        """POST /v1/images/generations."""
        return await self._serve(request, self.intake.generation)

    async def edits(self, request: Request) -> Any:
        """POST /v1/images/edits."""
        return await self._serve(request, self.intake.edit)

    async def _serve(self, request: Request, reading: _Reading) -> Any:
        self.bill.count_request()
        try:
            self.calls.authorise(request)
            async with reading(request) as (order, files):
                return await self._fulfil(request, order, files)
        except Problem as problem:
            self.bill.count_rejection(problem.counted_as)
            headers = self.limits.headers(time.monotonic())
            problem.headers = {**headers, **problem.headers}
            raise

    async def _fulfil(self, request: Request, order: Order, files: Files) -> Any:
        verdict = self.faults.decide(order.prompt)
        self.bill.count_faults(verdict.kinds)
        fault = verdict.fault
        if fault is not None and fault.unbilled:
            await asyncio.sleep(verdict.delay_s)
            if fault.kind in REFUSALS:
                raise refusal(fault, order.asked_model)
            return Unanswered(is_reset=fault.kind == "reset")
        charge = tokens.charge(order)
        images = max(order.n, len(order.inputs)) if self._counts_inputs else order.n
        self.limits.book(time.monotonic(), model=order.asked_model, images=images, tokens=charge.total_tokens)
        sample = self.samples.next(order.identity)
        await asyncio.sleep(self.latency() + verdict.delay_s)
        shots = await self.studio.make(order, sample, fault.kind if fault else None, files)
        request_id: str = request.state.request_id
        base_url, is_url = str(request.base_url), fault is not None and fault.kind == "url"
        urls = self._publish(base_url, request_id, shots, order.output_format) if is_url else []
        entry = self.bill.record(
            request_id=request_id,
            order=order,
            charge=charge,
            images=[shot.sha256 for shot in shots],
            delivered=fault.kind if fault else "faulty",
        )
        body = compose(
            order,
            shots,
            created=int(time.time()),
            charge=charge,
            fault=fault,
            urls=urls,
        )
        headers = self.limits.headers(time.monotonic())
        return ImagesAnswer(body, headers, bill=self.bill, entry=entry, fault=fault)

    def _publish(self, base_url: str, request_id: str, shots: list[Shot], output_format: str) -> list[str]:
        """Keeps images where `show_image` finds them; only the `url` fault needs that."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="runner-simulator-")
        names = [f"{request_id}-{index}.{output_format}" for index in range(len(shots))]
        for name, shot in zip(names, shots, strict=True):
            Path(self._folder.name, name).write_bytes(shot.data)
        return [f"{base_url}simulator/images/{name}" for name in names]

    async def show_image(self, request: Request) -> Response:
        """GET /simulator/images/{name}."""
        name: str = request.path_params["name"]
        path = Path(self._folder.name, name) if self._folder else None
        if path is None or path.name != name or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path)

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        self.calls.authorise(request)
        served: list[dict[str, object]] = []
        for model in self.catalog.models.values():
            try:
                validate.find_model(self.catalog, model.name)
            except Problem:
                continue
            served.extend(self._told(model, name) for name in (model.name, *model.aliases))
        return JSONResponse({"object": "list", "data": served})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        self.calls.authorise(request)
        name: str = request.path_params["name"]
        model, _ = validate.find_model(self.catalog, name)
        return JSONResponse(self._told(model, name))

    def _told(self, model: Model, name: str) -> dict[str, object]:
        known = self.catalog.sources.get(model.source)
        day = known.date if known else dt.date(2026, 1, 1)
        lifecycle = self.catalog.lifecycle("simulator", model.name)
        return {
            "id": name,
            "object": "model",
            "created": int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()),
            "owned_by": "runner-simulator",
            "shutdown_date": lifecycle.shutdown.isoformat() if lifecycle and lifecycle.shutdown else None,
        }

    async def show_bill(self, request: Request) -> Response:
        """GET /simulator/bill."""
        return JSONResponse(self.bill.summary())

    async def show_entries(self, request: Request) -> Response:
        """GET /simulator/bill/entries."""

        async def pieces() -> Any:
            for piece in self.bill.entries():
                yield piece

        return StreamingResponse(pieces(), media_type="application/jsonl")

    async def reset(self, request: Request) -> Response:
        """POST /simulator/reset: an empty bill, free limits, no files and batches, every count from 0."""
        await self.batches.reset()
        self.depot.clear()
        self.calls.reset()
        self.bill.reset()
        self.limits.reset()
        self.samples = Counters()
        self.faults.restart()
        return JSONResponse(self.bill.summary())

    async def show_faults(self, request: Request) -> Response:
        """GET /simulator/faults."""
        return JSONResponse({"rules": self.faults.describe()})

    async def set_faults(self, request: Request) -> Response:
        """POST /simulator/faults."""
        try:
            given: Any = json.loads(await intake.body(request))
        except ValueError:
            given = None
        rules = given.get("rules") if isinstance(given, dict) else None
        if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
            raise problems.invalid('Send {"rules": ["KIND:share=0.1", ...]}.', "rules")
        try:
            self.faults.replace(rules)
        except InputError as error:
            raise problems.invalid(f"{error.message}. {error.hint}", "rules") from None
        return await self.show_faults(request)


async def _on_problem(request: Request, problem: Problem) -> Response:
    return problem.response()


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    message = f"Invalid URL ({request.method} {request.url.path})"
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}"
    return Problem(error.status_code, message, headers=error.headers).response()


class _Stamped:
    """Gives every request its id, and every answer the headers that carry it and the time it took."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                took_ms = round((time.monotonic() - began) * 1000)
                stamps = [
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(took_ms).encode()),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *stamps]}
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            # The server stops: a request that was billed must not be told that it failed.
            Wire.of(scope).reset()
            raise
        except Exception:
            _log.exception("the simulator failed at %s %s", scope["method"], scope["path"])
            if started:
                Wire.of(scope).reset()
                await Wire.ended(receive)
                return
            await Problem(500, "The simulator itself failed; its log says why.", type="server_error").response()(
                scope, receive, stamped
            )
