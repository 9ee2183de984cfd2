"""An Images API server for development and tests: real HTTP, real images, and a bill of its own.

Owns `Settings` and `serve`. It refuses to know the runner's own arithmetic (`runner.rules`): what it bills is an
account that the runner did not write, so that a test can hold the ledger against it. Importing this package is cheap;
the web server and the drawing come with `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Settings", "serve"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the simulator behaves.

    Attributes:
        host, port: where it listens; port 0 takes any free one.
        seed: what pictures, latencies and the draws of fault rules follow from.
        latency_s: seconds from request to image: `0.5`, `0.2-1.5` (uniform), `p50=18,p95=46` (log-normal); each may be
            followed by `,scale=0.1`.
        images_per_minute, tokens_per_minute, requests_per_minute: limits, or None for none.
        window_s: the limits hold over any window of this many seconds: 600 a minute over 1 s are 10 in each second.
        payload_kb: images smaller than this are filled up to it; they stay valid files of their format.
        art: `drawn` from the prompt, or `flat`: one cached picture per size, for load tests.
        api_key: the one bearer token that is accepted; None accepts any (but never none at all).
        faults: rules, `KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,only=batch][,value=...]`.
        batch_time_s: seconds from the creation of a batch to its end; 0 is as fast as its images can be made.
        batch_window_s: seconds after which a batch expires (the API's are 24 hours).
        batch_queue_tokens: prompt tokens that all batches of a model together can have that are not over, or None.
        bill_path: where the bill's entries are kept (JSON lines; an existing file is carried on), or None for a
            temporary file.
        catalog: a file that is laid over the catalog.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    latency_s: str = "0"
    images_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    window_s: float = 60.0
    payload_kb: int | None = None
    art: Literal["drawn", "flat"] = "drawn"
    api_key: str | None = None
    faults: tuple[str, ...] = ()
    batch_time_s: float = 0.0
    batch_window_s: float = 86_400.0
    batch_queue_tokens: int | None = None
    bill_path: Path | None = None
    catalog: Path | None = None


def serve(settings: Settings, *, on_ready: Callable[[str], None], stop_when_stdin_closes: bool = False) -> None:
    """Serves until SIGINT or SIGTERM (or until stdin ends, when asked); returns in under two seconds after that.

    `on_ready` gets the base URL (`http://127.0.0.1:PORT/v1`) once connections are accepted.

    Raises:
        InputError: the settings do not make sense, or the port is taken.
    """
    from runner.simulator.server import serve as serve_settings

    serve_settings(settings, on_ready=on_ready, stop_when_stdin_closes=stop_when_stdin_closes)
