"""A place in a bucket of S3, Google Cloud Storage or Azure: objects by key, with time limits, and errors for people.

Credentials, region and endpoint come from the environment and the metadata service of the machine, as the tools of each
cloud take them: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``,
``AZURE_STORAGE_ACCOUNT_NAME`` and so on. An endpoint that starts with ``http://`` is asked without TLS.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from retrieval.bundle.errors import StoreError

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ObjectStore

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")

_CONNECT_S = 5

_SHORT_S = 10
"""Time in seconds after which a small request, with its retries, has failed."""

_LONG_S = 60
"""Time in seconds after which the request for one part of a file has failed, and after which it is not tried again."""

_ERROR_LENGTH = 300

_CREDENTIALS = (
    "AccessDenied",
    "Forbidden",
    "SignatureDoesNotMatch",
    "InvalidAccessKey",
    "InvalidToken",
    "ExpiredToken",
)
"""Words of answers to wrong credentials."""


class ChangedMeanwhile(StoreError):
    """An object is not the one that was read before: another process has written it."""


class TooLarge(StoreError):
    """An object is larger than what is read.

    Attributes:
        tag: Tag that `Bucket.replace` compares.
    """

    def __init__(self, message: str, tag: UpdateVersion) -> None:
        """Takes the message for a person, and the tag."""
        super().__init__(message)
        self.tag = tag


@dataclass(frozen=True)
class Listed:
    """An object in a listing.

    Attributes:
        key: Key relative to the place.
        modified: Time of the last write.
        size_bytes: Size of the object.
        tag: What the cloud calls this content; empty if it does not say.
    """

    key: str
    modified: datetime
    size_bytes: int
    tag: str = ""


class Bucket:
    """Objects below a URL such as ``s3://bucket/prefix``. Safe for use by several threads at once."""

    def __init__(self, url: str) -> None:
        """Takes the URL of the place. Nothing is asked of the cloud yet.

        Raises:
            StoreError: the URL, or what the environment says of the account, cannot be used; or obstore is missing.
        """
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise StoreError(
                f"{url}: a store on object storage needs the extra object-store: "
                "pip install 'two-tower-retrieval[object-store]'"
            ) from error
        self._obstore = obstore
        self._errors = (BaseError, OSError, ValueError)
        self.url = url
        _check_environment(url)
        plain = is_plain_http()

        def connect(limit_s: int, retries: int) -> ObjectStore:
            limit = timedelta(seconds=limit_s)
            return from_url(
                url,
                client_options={
                    "timeout": limit,
                    "connect_timeout": timedelta(seconds=_CONNECT_S),
                    "allow_http": plain,
                },
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": limit,
                    "backoff": {"max_backoff": timedelta(seconds=5)},
                },
            )

        try:
            self._small, self._large = connect(_SHORT_S, 3), connect(_LONG_S, 10)
        except self._errors as error:
            raise StoreError(f"cannot use {url}: {_shorten(error)}") from error

    def read(self, key: str, limit_bytes: int) -> tuple[bytes, UpdateVersion] | None:
        """Returns an object and the tag that `replace` compares; None if there is none.

        Args:
            key: key relative to the place.
            limit_bytes: largest size that is read.

        Raises:
            TooLarge: the object is larger.
            StoreError: the object cannot be read.
        """
        with self._asking("read", key):
            try:
                found = self._obstore.get(self._small, key)
                if found.meta["size"] > limit_bytes:
                    message = f"{self.url}/{key} has more than {limit_bytes} bytes, the most that is read"
                    raise TooLarge(message, _tag(found.meta))
                return bytes(found.bytes()), _tag(found.meta)
            except FileNotFoundError as error:
                # Stores answer 404 for a missing bucket too, and some for an unknown key of access.
                code = re.search("<Code>(.*?)</Code>", str(error))
                if code and code[1] not in ("NoSuchKey", "BlobNotFound"):
                    raise
                return None

    def read_part(self, key: str, start: int, end: int) -> memoryview:
        """Returns the bytes of an object from `start` up to, but not with, `end`.

        Raises:
            StoreError: they cannot be read, or the object is shorter.
        """
        with self._asking("read", key):
            part = memoryview(self._obstore.get_range(self._large, key, start=start, end=end))
        if len(part) != end - start:
            raise StoreError(f"cannot read {self.url}/{key}: {len(part)} bytes came of {end - start} from {start:,} on")
        return part

    def replace(self, key: str, content: bytes, tag: UpdateVersion | None) -> None:
        """Writes an object if it has not changed since it was read.

        Args:
            key: key relative to the place.
            content: new content.
            tag: tag from `read`; None: there must be no object yet.

        Raises:
            ChangedMeanwhile: another process has written the object.
            StoreError: the object cannot be written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._asking("write", key):
            try:
                self._obstore.put(self._small, key, content, mode="create" if tag is None else tag)
            except (AlreadyExistsError, PreconditionError) as error:
                # After a lost answer the client asks again, and then meets its own write.
                found = self.read(key, max(len(content), 1 << 20))
                if found is None or found[0] != content:
                    raise ChangedMeanwhile(f"another process has written {self.url}/{key} meanwhile") from error

    def write(self, key: str, content: bytes) -> None:
        """Writes a small object, whatever was there. Raises StoreError if it cannot be written."""
        with self._asking("write", key):
            self._obstore.put(self._small, key, content)

    def upload(self, key: str, content: Path | bytes) -> None:
        """Writes a file, or bytes, to an object, in parts if it is large.

        A reader sees all of it or none. Raises StoreError if the file cannot be read or the object not be written.
        """
        with self._asking("write", key):
            self._obstore.put(self._large, key, content)

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yields the objects whose keys start with a folder. Raises StoreError if they cannot be listed."""
        with self._asking("list", prefix):
            for page in self._obstore.list(self._small, prefix):
                for found in page:
                    yield _listed(found)

    def find(self, key: str) -> Listed | None:
        """Returns an object as in a listing; None if there is none. Raises StoreError if the cloud does not say."""
        with self._asking("read", key):
            try:
                return _listed(self._obstore.head(self._small, key))
            except FileNotFoundError:
                return None

    def delete(self, keys: list[str]) -> None:
        """Removes objects; one that is not there is none. Raises StoreError if they cannot be removed."""
        if keys:
            with self._asking("remove", keys[0]), suppress(FileNotFoundError):
                self._obstore.delete(self._small, keys)

    @contextmanager
    def _asking(self, what: str, key: str) -> Generator[None]:
        """Turns errors of obstore within the context into StoreError."""
        try:
            yield
        except self._errors as error:
            self._fail(what, key, error)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, which derives from no other class
                raise
            self._fail(what, key, error)

    def _fail(self, what: str, key: str, error: BaseException) -> NoReturn:
        text = _shorten(error)
        hint = ""
        if "NoSuchBucket" in text:
            hint = "; there is no such bucket: check the URL of the store"
        elif "169.254.169.254" in text or "metadata.google.internal" in text:
            hint = "; no credentials were found in the environment, and this machine has no metadata service"
        elif any(word in text for word in _CREDENTIALS):
            hint = "; check the credentials in the environment, and what they may do"
        raise StoreError(f"cannot {what} {self.url}/{key}: {text}{hint}") from error


def is_plain_http() -> bool:
    """Returns whether the environment names an endpoint that is asked without TLS."""
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)


def _check_environment(url: str) -> None:
    """Checks what would end obstore by a panic. Raises StoreError, without the values, which may be secrets."""
    for name, value in os.environ.items():
        if name.startswith(("AWS_", "AZURE_")) and not value.isprintable():
            raise StoreError(
                f"cannot use {url}: the environment variable {name} has a line break, or another character that cannot "
                "be printed: remove it, also at the end"
            )
        if name in _ENDPOINTS and value and not value.startswith(("http://", "https://")):
            raise StoreError(f"cannot use {url}: the environment variable {name} has to start with https://")


def _listed(meta: ObjectMeta) -> Listed:
    return Listed(meta["path"], meta["last_modified"], meta["size"], meta["e_tag"] or "")


def _tag(meta: ObjectMeta) -> UpdateVersion:
    """Returns what identifies this content of an object."""
    tag: UpdateVersion = {}
    if e_tag := meta["e_tag"]:
        tag["e_tag"] = e_tag
    if version := meta["version"]:
        tag["version"] = version
    return tag


def _shorten(error: BaseException) -> str:
    """Returns the text of an error of obstore on one line, the same for the same fault at another time."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    if answer := re.search("<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text):
        return html.unescape(f"{answer[1]}: {answer[2]}")[:_ERROR_LENGTH]
    text = re.sub(
        r"^Generic \S+ error: | in [0-9.]+[a-zµ]?s\b|, after [0-9]+ retries, max_retries: .*?retry_timeout: \S+",
        "",
        text,
    )
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"
