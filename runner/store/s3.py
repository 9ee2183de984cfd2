"""Objects of a server that speaks S3's protocol.

Owns single requests, each with the checksum that its answer is held against, and what the server's errors mean. One put
is atomic: an object is there as a whole or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from typing import IO, Any, Final, TypeVar

from runner.errors import StoreError
from runner.store.objects import AT_FIRST, MOVE_AWAY, PIECE_BYTES, Body, Found, Objects, Passing, run, type_of
from runner.store.places import Bucket

T = TypeVar("T")
_BUSY: Final = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "RequestTimeoutException",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "OperationAborted",
        "ConditionalRequestConflict",
        # What arrived is not what left.
        "BadDigest",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "IncompleteBody",
    }
)
_RIGHTS: Final = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
_KEYS: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role"
_HINTS: Final = {
    "NoSuchBucket": "make the bucket, or name another with --output or output.dir",
    "AccessDenied": f"these rights are needed on it: {_RIGHTS}",
    "AllAccessDisabled": f"these rights are needed on it: {_RIGHTS}",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": f"the secret key does not belong to the key id; {_KEYS}",
    "ExpiredToken": f"the session of these keys is over: sign in again, or {_KEYS}",
    "InvalidToken": _KEYS,
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": "set AWS_REGION to the region of the bucket",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the region of the bucket",
    "IllegalLocationConstraintException": "set AWS_REGION to the region of the bucket",
}
_WORDS: Final = {"NoSuchBucket": "there is no such bucket", "AccessDenied": "nobody with these keys may do this"}


class _Conflict(Exception):
    """Something lies there already."""


class S3Objects(Objects):
    """Objects below a prefix of a bucket; `system` is fsspec's file system for it."""

    def __init__(self, bucket: Bucket, system: Any) -> None:
        super().__init__(bucket)
        self._system = system
        self._name, _, prefix = bucket.root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._knows_conditions = True

    def check(self) -> None:
        """See that the bucket is there, and may be listed and read."""
        # Not HEAD: its answers have no body, and so no reason.
        self._call(str(self.bucket), "list_objects_v2", tries=AT_FIRST, Prefix=self._prefix, MaxKeys=1)

    def head(self, path: str) -> Found | None:
        """What lies at a path, with the checksum that the server has of it."""
        try:
            answer = self._call(self.url(path), "head_object", Key=self._key(path), ChecksumMode="ENABLED")
        except _Missing:
            return None
        return Found(path, int(answer["ContentLength"]), answer["LastModified"].timestamp(), _sha256(answer))

    def put(self, path: str, body: Body, *, replace: bool = False) -> None:
        """One put, under the condition that nothing lies there; its answer has to tell the same checksum."""

        def once() -> None:
            try:
                answer = self._put(path, body, replace=replace)
            except _Conflict:
                # A try may have arrived although its answer did not, of this call or of the client's own.
                if self.sha256(path) == body.sha256:
                    return
                raise StoreError(f"{self.url(path)} exists already", hint=MOVE_AWAY) from None
            if not self._is_right(path, body, answer):
                # It is this put's own: nothing lay there before.
                self.delete(path)
                raise Passing("what arrived there is not what was sent")

        self.persist(self.url(path), once)

    def fetch(self, path: str, into: IO[bytes]) -> str | None:
        """One get, read piece by piece, and held against the checksum in its answer."""
        return self._fetch(path, into)

    def _fetch(self, path: str, into: IO[bytes], *, tries: int | None = None) -> str | None:

        def once() -> str | None:
            into.seek(0)
            into.truncate()
            digest = hashlib.sha256()

            async def work() -> Any:
                client = await self._system.set_session()
                answer = await client.get_object(Bucket=self._name, Key=self._key(path), ChecksumMode="ENABLED")
                size = 0
                async with answer["Body"] as stream:
                    while piece := await stream.read(PIECE_BYTES):
                        digest.update(piece)
                        into.write(piece)
                        size += len(piece)
                if size != answer["ContentLength"]:
                    raise Passing(f"it broke off after {size} of {answer['ContentLength']} bytes")
                return answer

            try:
                answer = self._once(self.url(path), work)
            except _Missing:
                return None
            told = _sha256(answer)
            if told is not None and told != digest.hexdigest():
                raise Passing("what comes from there is damaged: its checksum is another")
            into.flush()
            return digest.hexdigest()

        return self.persist(self.url(path), once, tries=tries)

    def copy(self, source: Objects, old: str, new: str) -> None:
        """A copy on the server, held against the original; by way of this machine where that is another server's."""
        if self.head(new) is not None:
            raise StoreError(f"{self.url(new)} exists already", hint=MOVE_AWAY)
        if not isinstance(source, S3Objects) or source._system is not self._system:
            self.through_here(source, old, new)
            return
        # Of its hash the copy is made as well, where the original has none.
        told = source.sha256(old)
        try:
            self._call(
                self.url(new),
                "copy_object",
                Key=self._key(new),
                CopySource={"Bucket": source._name, "Key": source._key(old)},
                ChecksumAlgorithm="SHA256",
            )
        except _Missing:
            raise StoreError(f"{source.url(old)} is not there") from None
        if self.sha256(new) != told:
            self.delete(new)
            raise StoreError(f"{self.url(new)}: the copy is not like its original", hint="run again")

    def delete(self, path: str) -> None:
        """Remove an object, if there is one."""
        self._call(self.url(path), "delete_object", Key=self._key(path))

    def walk(self, prefix: str, *, most: int | None = None) -> Iterator[Found]:
        """All objects whose paths begin so, a page of the server's at a time; without checksums."""
        more: dict[str, Any] = {} if most is None else {"MaxKeys": most}
        left = most
        while True:
            page = self._call(self.url(prefix), "list_objects_v2", Prefix=self._key(prefix), **more)
            for item in page.get("Contents", ()):
                path = item["Key"][len(self._prefix) :]
                # What stands for a folder in some tools is no file.
                if not path.endswith("/"):
                    yield Found(path, int(item["Size"]), item["LastModified"].timestamp())
                left = None if left is None else left - 1
            if not page.get("IsTruncated") or left == 0:
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def _key(self, path: str) -> str:
        return f"{self._prefix}{path}"

    def _put(self, path: str, body: Body, *, replace: bool) -> Any:
        condition = {} if replace or not self._knows_conditions else {"IfNoneMatch": "*"}
        if not (replace or condition) and self.head(path) is not None:
            raise _Conflict
        # It is read while it leaves, whatever its length.
        with body.file.open("rb") as stream:

            async def work() -> Any:
                client = await self._system.set_session()
                return await client.put_object(
                    Bucket=self._name,
                    Key=self._key(path),
                    Body=stream,
                    ContentLength=body.bytes,
                    ContentType=type_of(path),
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=base64.b64encode(bytes.fromhex(body.sha256)).decode(),
                    **condition,
                )

            try:
                return self._once(self.url(path), work)
            except _Unknown:
                if not condition:
                    raise StoreError(f"{self.url(path)}: the server does not know how to put an object") from None
                # An older server: what lies there is asked for before. Runs of one job exclude each other elsewhere.
                self._knows_conditions = False
                raise Passing("the server knows no conditions") from None

    def _is_right(self, path: str, body: Body, answer: Any) -> bool:
        """Whether what arrived is what was sent: by the answer, else by reading it."""
        told = _sha256(answer)
        if told is not None and told != body.sha256:
            return False
        tag = str(answer.get("ETag", "")).strip('"')
        is_hash_of_bytes = len(tag) == 32 and not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        # A server that only repeats the checksum that it was told has still counted this one itself.
        if told is not None and (not is_hash_of_bytes or tag.lower() == body.md5.hex()):
            return True
        try:
            with tempfile.TemporaryFile() as nowhere:
                return self._fetch(path, nowhere, tries=AT_FIRST) == body.sha256
        except StoreError:
            return False  # what cannot be read whole is no image, whatever is told of it

    def _call(self, what: str, operation: str, *, tries: int | None = None, **parameters: Any) -> Any:
        async def work() -> Any:
            client = await self._system.set_session()
            return await getattr(client, operation)(Bucket=self._name, **parameters)

        return self.persist(what, lambda: self._once(what, work), tries=tries)

    def _once(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """One request; its error as Passing, StoreError, or one of those below."""
        from botocore import exceptions as theirs

        try:
            return run(self._system, work)
        except theirs.ClientError as error:
            raise self._meaning(what, error) from error
        except (
            theirs.NoCredentialsError,
            theirs.PartialCredentialsError,
            theirs.CredentialRetrievalError,
            theirs.ProfileNotFound,
            theirs.TokenRetrievalError,
        ) as error:
            raise StoreError(f"{what}: there are no keys for it ({error})", hint=_KEYS) from error
        except (theirs.ConnectionError, theirs.HTTPClientError, theirs.ResponseStreamingError) as error:
            raise Passing(f"it cannot be reached or broke off ({_short(error)})") from error
        except (OSError, EOFError) as error:
            # The client library's own errors of connections are among them.
            raise Passing(f"it cannot be reached or broke off ({_short(error)})") from error
        except (theirs.BotoCoreError, ValueError) as error:
            if type(error).__name__ in ("FlexibleChecksumError", "ResponseParserError", "IncompleteReadError"):
                raise Passing(f"its answer is damaged ({_short(error)})") from error
            raise StoreError(f"{what}: {_short(error)}", hint="check the URL and the AWS_ variables") from error
        except (Passing, StoreError):
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("aiohttp", "urllib3", "asyncio", "concurrent"):
                raise Passing(f"it broke off ({_short(error)})") from error
            raise

    def _meaning(self, what: str, error: Any) -> Exception:
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _BUSY or status in (408, 429, 500, 502, 503, 504):
            return Passing(f"it answers {status} {code}".rstrip())
        if code == "PreconditionFailed" or status == 412:
            return _Conflict()
        if code == "NotImplemented" or status == 501:
            return _Unknown()
        if code in ("NoSuchKey", "404", "NotFound"):
            return _Missing()
        if status == 403 and code not in _HINTS:
            code = "AccessDenied"
        message = _WORDS.get(code) or f"it answers {status} {code}: {_short(told.get('Message', ''))}"
        return StoreError(f"{what}: {message}", hint=_HINTS.get(code, "check the URL and the AWS_ variables"))


class _Missing(Exception):
    """Nothing lies there."""


class _Unknown(Exception):
    """The server does not know what was asked for."""


def _sha256(answer: Any) -> str | None:
    """The checksum of the whole object in an answer; that of one in parts is a hash of hashes, and tells nothing."""
    told = answer.get("ChecksumSHA256")
    if not told or answer.get("ChecksumType") == "COMPOSITE" or "-" in str(told):
        return None
    try:
        return base64.b64decode(told, validate=True).hex()
    except ValueError:
        # It is a checksum, and not that of these bytes.
        return "damaged"


def _short(error: object) -> str:
    """An error in one line; a URL with a signature in it would end at its question mark."""
    return " ".join(str(error).split()).partition("?X-Amz")[0][:300] or type(error).__name__
