"""The sole importer of `openai`: requests, streaming decode, error translation.

Owns how an image is asked of the Images API and what its answers and errors mean. Refuses to retry, to wait and to
record: one call is one request. The SDK's own retries are off: they would pass the pacing and the ledger by.
"""

from runner.provider.answer import Made
from runner.provider.batches import (
    ENDPOINTS,
    FINAL,
    Batches,
    BatchInfo,
    BatchProblem,
    Line,
    OpenSink,
    Purpose,
    RemoteFile,
    batch_line,
)
from runner.provider.client import Client, ModelInfo, connect
from runner.provider.endpoint import Endpoint, Timeouts
from runner.provider.upload import Upload
from runner.provider.wire import NoSuch

__all__ = [
    "ENDPOINTS",
    "FINAL",
    "BatchInfo",
    "BatchProblem",
    "Batches",
    "Client",
    "Endpoint",
    "Line",
    "Made",
    "ModelInfo",
    "NoSuch",
    "OpenSink",
    "Purpose",
    "RemoteFile",
    "Timeouts",
    "Upload",
    "batch_line",
    "connect",
]
