"""The sole importer of `openai`: requests, streaming decode, error translation.

Owns how an image is asked of the Images API and what its answers and errors mean. Refuses to retry, to wait and to
record: one call is one request. The SDK's own retries are off: they would pass the pacing and the ledger by.
"""

from runner.provider.client import Client, Made, ModelInfo, connect
from runner.provider.endpoint import Endpoint, Timeouts
from runner.provider.upload import Upload

__all__ = ["Client", "Endpoint", "Made", "ModelInfo", "Timeouts", "Upload", "connect"]
