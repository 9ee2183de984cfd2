"""The sole owner of files below the output place: streaming write, verification, placing, adoption.

Owns the layout of `<output>/<job>/` and the order in which bytes become durable (law 2). Refuses to know what is in the
ledger and what an image means: it writes what it is given, byte for byte (law 5).

    <output>/<job>/images/      the assets, named by the manifest
    <output>/<job>/superseded/  assets whose name was given to another image; nothing paid for is thrown away
    <output>/<job>/.partial/    what is being received, one file an attempt
    <output>/<job>/.batches/    what is about to be submitted, until the provider has it
    <output>/<job>/logs/        what each run did, as JSON lines

The output place is a folder, or a prefix in a bucket; what is being received and about to be submitted then lies in a
folder of this machine, the spool.
"""

from runner.store.batchfiles import Lines
from runner.store.inventory import Entry, Inventory, Look, decoding
from runner.store.opening import inventory_at, store_at
from runner.store.partial import Partial, Sealed
from runner.store.places import Bucket, Output, output_at, url_of
from runner.store.store import Store
from runner.store.verify import BadImage, ImageFacts

__all__ = [
    "BadImage",
    "Bucket",
    "Entry",
    "ImageFacts",
    "Inventory",
    "Lines",
    "Look",
    "Output",
    "Partial",
    "Sealed",
    "Store",
    "decoding",
    "inventory_at",
    "output_at",
    "store_at",
    "url_of",
]
