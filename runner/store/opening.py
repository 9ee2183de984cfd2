"""Which store a job's files lie in, by the place that they go to.

Owns the choice, and that what a bucket needs is imported only for a bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.store.places import Bucket, Output

if TYPE_CHECKING:
    from runner.store.inventory import Inventory
    from runner.store.store import Store


def store_at(output: Output, job: str) -> Store:
    """The store of a job below an output place; nothing is opened or made yet.

    Raises:
        InputError: a package is missing that this kind of place needs.
    """
    if isinstance(output, Bucket):
        from runner.store.bucket import BucketStore

        return BucketStore(output, job)
    from runner.store.folder import FolderStore

    return FolderStore(output, job)


def inventory_at(output: Output, job: str) -> Inventory:
    """What lies in the place of a job, to look at.

    Raises:
        InputError: a package is missing that this kind of place needs.
    """
    if isinstance(output, Bucket):
        from runner.store.bucketinventory import BucketInventory

        return BucketInventory(output, job)
    from runner.store.inventory import FolderInventory

    return FolderInventory(output, job)
