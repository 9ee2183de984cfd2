"""The pictures that a request starts from: found, checked, converted where need be, and found again.

Owns what may be sent (png, jpeg and webp of bearable size), how a picture is turned upright, shrunk or made another
format, how a mask is drawn or converted to what the API takes, how an answer is pasted onto the original, the identity
of each picture, and the cache in which converted files and finished checks are kept. Refuses to know manifests and
their lines, tasks beyond the words for an input, requests, prices and where renditions go.

Identity is content. A file that is sent as it is has the SHA-256 of its bytes. One that is changed on the way has the
SHA-256 over the source's own and what is done to it: the bytes that an encoder makes of that are another version's
other bytes, and nothing would be paid for twice because of it. A name is never part of it.
"""

from runner.inputs.cache import default_cache
from runner.inputs.inputs import Inputs, described
from runner.inputs.pasting import paste
from runner.inputs.types import BadInput, Mask, MaskMode, Prepare, Ready

__all__ = ["BadInput", "Inputs", "Mask", "MaskMode", "Prepare", "Ready", "default_cache", "described", "paste"]
