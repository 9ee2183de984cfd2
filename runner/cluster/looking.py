"""What a node looks at before it is given work: is this the place that the driver sees, with the same program?

Owns the words for a node that is of no use. Refuses to know for what.
"""

from __future__ import annotations

import socket

from runner import __version__
from runner.cluster.messages import Place, Ready
from runner.errors import RunnerError
from runner.store import Bucket, Store, store_at


def opened(place: Place) -> Store | Ready:
    """The store of a run on this node; or why there is none."""
    host = socket.gethostname()
    if place.version != __version__:
        return Ready(
            f"{host} has runner {__version__}, and this machine {place.version}", hint="install the same version there"
        )
    try:
        store = store_at(place.output, place.job)
        with store.reading(place.token_path) as file:
            seen = file.read(len(place.token) + 1)
        if seen == place.token:
            if isinstance(place.output, Bucket):
                store.prepare()  # its folder for what is being received is this machine's own
            return store
        why = "another folder lies there"
    except RunnerError as error:
        why = error.message
    if isinstance(place.output, Bucket):
        return Ready(f"{host} cannot use {place.output}: {why}", hint="the nodes need keys for it of their own")
    return Ready(
        f"{host} does not see the folder {place.output} as this machine does: {why}",
        hint="choose an --output that all nodes share under the same path, or a bucket: s3://bucket/prefix",
    )
