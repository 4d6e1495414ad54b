"""A place in a bucket of S3, Google Cloud Storage or Azure: objects by key, with time limits, and errors for people.

Credentials, region and endpoint come from the environment and the metadata service of the machine, as the tools of each
cloud take them: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``,
``AZURE_STORAGE_ACCOUNT_NAME`` and so on. An endpoint that starts with ``http://`` is asked without TLS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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


class ChangedMeanwhile(StoreError):
    """An object is not the one that was read before: another process has written it."""


@dataclass(frozen=True)
class Listed:
    """An object in a listing.

    Attributes:
        key: Key relative to the place.
        modified: Time of the last write.
    """

    key: str
    modified: datetime


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
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)

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
            StoreError: the object is larger, or cannot be read.
        """
        try:
            found = self._obstore.get(self._small, key)
            if found.meta["size"] > limit_bytes:
                raise StoreError(f"{self.url}/{key} has more than {limit_bytes} bytes, the most that is read")
            return bytes(found.bytes()), _tag(found.meta)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                self._fail("read", key, error)
            return None
        except self._errors as error:
            self._fail("read", key, error)

    def read_part(self, key: str, start: int, end: int) -> memoryview:
        """Returns the bytes of an object from `start` up to, but not with, `end`.

        Raises:
            StoreError: they cannot be read, or the object is shorter.
        """
        try:
            part = memoryview(self._obstore.get_range(self._large, key, start=start, end=end))
        except self._errors as error:
            self._fail("read", key, error)
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

        try:
            self._obstore.put(self._small, key, content, mode="create" if tag is None else tag)
        except (AlreadyExistsError, PreconditionError) as error:
            # After a lost answer the client asks again, and then meets its own write.
            found = self.read(key, max(len(content), 1 << 20))
            if found is None or found[0] != content:
                raise ChangedMeanwhile(f"another process has written {self.url}/{key} meanwhile") from error
        except self._errors as error:
            self._fail("write", key, error)

    def write(self, key: str, content: bytes) -> None:
        """Writes a small object, whatever was there. Raises StoreError if it cannot be written."""
        try:
            self._obstore.put(self._small, key, content)
        except self._errors as error:
            self._fail("write", key, error)

    def upload(self, key: str, path: Path) -> None:
        """Writes a file to an object, in parts if it is large. Raises StoreError if it cannot be read or written."""
        try:
            self._obstore.put(self._large, key, path)
        except self._errors as error:
            self._fail("write", key, error)

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yields the objects whose keys start with a folder. Raises StoreError if they cannot be listed."""
        try:
            for page in self._obstore.list(self._small, prefix):
                for found in page:
                    yield Listed(found["path"], found["last_modified"])
        except self._errors as error:
            self._fail("list", prefix, error)

    def delete(self, keys: list[str]) -> None:
        """Removes objects; one that is not there is none. Raises StoreError if they cannot be removed."""
        try:
            if keys:
                self._obstore.delete(self._small, keys)
        except FileNotFoundError:
            pass
        except self._errors as error:
            self._fail("remove", keys[0], error)

    def _fail(self, what: str, key: str, error: Exception) -> NoReturn:
        text = _shorten(error)
        hint = ""
        if "NoSuchBucket" in text:
            hint = "; there is no such bucket: check the URL of the store"
        elif "169.254.169.254" in text or "metadata" in text:
            hint = "; no credentials were found in the environment, and this machine has no metadata service"
        elif any(word in text for word in ("AccessDenied", "Forbidden", "SignatureDoesNotMatch", "InvalidAccessKey")):
            hint = "; check the credentials in the environment, and what they may do"
        raise StoreError(f"cannot {what} {self.url}/{key}: {text}{hint}") from error


def _tag(meta: ObjectMeta) -> UpdateVersion:
    """Returns what identifies this content of an object."""
    tag: UpdateVersion = {}
    if e_tag := meta["e_tag"]:
        tag["e_tag"] = e_tag
    if version := meta["version"]:
        tag["version"] = version
    return tag


def _shorten(error: Exception) -> str:
    """Returns the text of an error of obstore on one line, the same for the same fault at another time."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    if answer := re.search("<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text):
        return f"{answer[1]}: {answer[2]}"[:_ERROR_LENGTH]
    text = re.sub(
        r"^Generic \S+ error: | in [0-9.]+[a-zµ]?s\b|, after [0-9]+ retries, max_retries: .*?retry_timeout: \S+",
        "",
        text,
    )
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"
