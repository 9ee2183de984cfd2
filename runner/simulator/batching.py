"""The Batch API: create, list, look, cancel; and `/simulator/batches`, which shows what came.

Owns its routes and its errors. How a batch lives is `batches`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from runner.simulator import intake, lines
from runner.simulator.batch import Batch
from runner.simulator.batches import Batches
from runner.simulator.calls import Calls
from runner.simulator.depot import Depot
from runner.simulator.filing import expiry_s, limit_of, page_of
from runner.simulator.problems import Problem, invalid

_PARAMETERS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_MOST_LISTED = 100
_LISTED = 20
_LATE_S = 60
_MOST_PAIRS, _MOST_KEY_CHARS, _MOST_VALUE_CHARS = 16, 64, 512


class Batching:
    """The Batch API of one server."""

    def __init__(self, batches: Batches, depot: Depot, calls: Calls) -> None:
        self._batches = batches
        self._depot = depot
        self._calls = calls

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.batches),
            Route("/v1/batches/{id}", self.retrieve),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/simulator/batches", self.show),
        ]

    def _begin(self, request: Request, call: str) -> None:
        self._calls.authorise(request)
        self._calls.counts[call] += 1

    def _find(self, batch_id: str) -> Batch:
        batch = self._batches.all.get(batch_id)
        if batch is None:
            raise Problem(404, f"No batch found with id '{batch_id}'.", param="id")
        return batch

    async def create(self, request: Request) -> Any:
        """POST /v1/batches."""
        self._begin(request, "create")
        given = intake.parsed(await intake.body(request))
        for parameter in given:
            if parameter not in _PARAMETERS:
                raise invalid(f"Unknown parameter: '{parameter}'.", parameter, "unknown_parameter")
        for parameter in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(given.get(parameter), str):
                raise invalid(f"Missing required parameter: '{parameter}'.", parameter, "missing_required_parameter")
        _one_of(given, "endpoint", (lines.GENERATIONS, lines.EDITS))
        _one_of(given, "completion_window", ("24h",))
        metadata = _metadata(given.get("metadata"))
        expiry = given.get("output_expires_after")
        expires_after_s = None if expiry is None else expiry_s(expiry, "output_expires_after")

        async def made() -> Response:
            stored = self._depot.find(given["input_file_id"])
            if stored.purpose != "batch":
                raise invalid(
                    f"Invalid 'input_file_id': its purpose is '{stored.purpose}', and must be 'batch'.", "input_file_id"
                )
            batch = self._batches.create(
                endpoint=given["endpoint"],
                stored=stored,
                metadata=metadata,
                output_expires_after_s=expires_after_s,
                base_url=str(request.base_url),
            )
            self._calls.creates += 1
            return JSONResponse(batch.told())

        return await self._calls.answer("create", json.dumps(metadata or {}, sort_keys=True), made)

    async def batches(self, request: Request) -> Any:
        """GET /v1/batches."""
        self._begin(request, "batches")

        fault = self._calls.fault("batches", "")
        late_s = float(fault.value or _LATE_S) if fault and fault.kind == "batches_late" else 0.0

        async def listed() -> Response:
            limit = limit_of(request, _LISTED, _MOST_LISTED)
            until = time.time() - late_s
            newest_first = [batch.told() for batch in reversed(self._batches.all.values()) if batch.born_at <= until]
            return JSONResponse(page_of(newest_first, request.query_params.get("after"), limit))

        return await (self._calls.spoilt(fault, listed) if fault and not late_s else listed())

    async def retrieve(self, request: Request) -> Any:
        """GET /v1/batches/{id}."""
        self._begin(request, "retrieve")
        batch_id: str = request.path_params["id"]

        async def told() -> Response:
            return JSONResponse(self._find(batch_id).told())

        return await self._calls.answer("retrieve", batch_id, told)

    async def cancel(self, request: Request) -> Any:
        """POST /v1/batches/{id}/cancel."""
        self._begin(request, "cancel")
        batch_id: str = request.path_params["id"]

        async def cancelled() -> Response:
            batch = self._find(batch_id)
            if not self._batches.cancel(batch):
                raise Problem(409, f"Cannot cancel a batch with status '{batch.status}'.")
            return JSONResponse(batch.told())

        return await self._calls.answer("cancel", batch_id, cancelled)

    async def show(self, request: Request) -> Response:
        """GET /simulator/batches."""
        shown = [
            {**batch.told(), "input_sha256": batch.survey.sha256 if batch.survey else None}
            for batch in self._batches.all.values()
        ]
        return JSONResponse(
            {
                "uploads": dict(self._calls.uploads),
                "creates": self._calls.creates,
                "calls": dict(self._calls.counts),
                "files": [stored.told() for stored in self._depot.all()],
                "batches": shown,
            }
        )


def _one_of(given: Mapping[str, Any], param: str, known: tuple[str, ...]) -> None:
    if given[param] not in known:
        listed = ", ".join(f"'{each}'" for each in known)
        raise invalid(f"Invalid value: '{given[param]}'. Supported values are: {listed}.", param)


def _metadata(given: object) -> Mapping[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise invalid("Invalid type for 'metadata': expected an object of strings.", "metadata", "invalid_type")
    is_long = any(len(key) > _MOST_KEY_CHARS or len(value) > _MOST_VALUE_CHARS for key, value in given.items())
    if is_long or len(given) > _MOST_PAIRS:
        raise invalid(
            f"Invalid 'metadata': expected at most {_MOST_PAIRS} pairs, keys of at most {_MOST_KEY_CHARS} characters "
            f"and values of at most {_MOST_VALUE_CHARS}.",
            "metadata",
        )
    return given
