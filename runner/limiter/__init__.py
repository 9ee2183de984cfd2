"""The pace of one provider key, shared by every run that uses it.

Owns where the runs of a key meet: in a file of the machine (`machine`), or in the ledger that several hosts share
(`hosts`). Each run goes through two sets of gates: its own, with the numbers of its manifest, and the key's, with the
largest numbers that any run which is alive goes by. The arithmetic is `rules.pacing`.
"""

from __future__ import annotations

import hashlib

from runner.limiter.hosts import Gates, LedgerPacer
from runner.limiter.machine import ALIVE_S, KEPT_S, SharedPacer, default_folder, key_file

__all__ = ["ALIVE_S", "KEPT_S", "Gates", "LedgerPacer", "SharedPacer", "default_folder", "key_digest", "key_file"]


def key_digest(base_url: str, api_key: str) -> str:
    """The name of a key with this server, wherever its runs meet. It does not tell the key."""
    return hashlib.sha256(f"{base_url}\n{api_key}".encode()).hexdigest()[:32]
