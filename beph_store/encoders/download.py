"""Fetch one file by HTTP: a download that was cut goes on where it stopped, and no half file ever has the name.

What has come so far lies in ``NAME.part``, and ``NAME.part.json`` says of which file (its address and the server's ETag
or date), so that the rest of another file is never joined to it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from beph_store.errors import EncoderError

#: Called with (bytes so far, bytes in all; 0 where the server does not say).
Tell = Callable[[int, int], None]

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0
#: Times that a cut connection is taken up again within one call, and the pause before, seconds.
_TRIES, _PAUSE_S = 5, 0.5


@dataclass(frozen=True, slots=True)
class Fetched:
    """``path`` of the whole file, its ``bytes``, ``sha256`` hex, and how many bytes an earlier try had brought."""

    path: Path
    bytes: int
    sha256: str
    resumed: int


class _Cut(Exception):
    """The connection ended before the file did."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect from https leads to https."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request; EncoderError where it would go in the clear."""
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise EncoderError(f"{_host(req.full_url)} redirects to {newurl}, which is not https: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, path: Path, *, tell: Tell = lambda _, __: None, cure: str = "") -> Fetched:
    """Bring the file at ``url`` to ``path``; ``cure`` ends the message of every error.

    Raises EncoderError where the server refuses, sends a web page, or stays away. What came is kept for the next try.
    """
    if urlsplit(url).scheme not in ("https", "http"):
        raise EncoderError(f"{url} is no address of a file (https://…){cure}")
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    began = _begun(url, part)
    for left in reversed(range(_TRIES)):
        try:
            _take(url, part, tell, cure)
            break
        except (_Cut, http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            if left == 0:
                raise EncoderError(
                    f"the download from {_host(url)} was cut {_TRIES} times at {_size(part):,} bytes: run it again, "
                    f"it goes on from there{cure}"
                ) from error
            time.sleep(_PAUSE_S)
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(path)
    _note(part).unlink(missing_ok=True)
    return Fetched(path, path.stat().st_size, sha256, began)


def digest_of(path: Path, algorithm: str) -> str:
    """Digest of a file's content by ``algorithm``, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _take(url: str, part: Path, tell: Tell, cure: str) -> None:
    """One request for what is missing, appended to ``part``."""
    have, note = _size(part), _read_note(part)
    headers = {"User-Agent": "beph-store", "Accept-Encoding": "identity"}
    if have and note.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": str(note["validator"])}
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        reply = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have and have == note.get("bytes"):
            return  # all of it had come, only the last step was missing
        if error.code == 416:
            _forget(part)
            raise _Cut from error
        raise EncoderError(f"{_host(url)} answers {error.code} {error.reason}{cure}") from error
    except urllib.error.URLError as error:
        raise EncoderError(f"{_host(url)} cannot be reached ({error.reason}){cure}") from error
    with reply:
        _keep(reply, url, part, tell, cure)


def _keep(reply: Any, url: str, part: Path, tell: Tell, cure: str) -> None:
    if reply.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise EncoderError(
            f"{_host(url)} sends a web page in place of the file (its quota is used up, or it wants a person to click)"
            f"{cure}"
        )
    on = reply.status == 206
    start = _size(part) if on else 0
    if on and not (reply.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
        _forget(part)
        raise _Cut
    length = reply.headers.get("Content-Length")
    total = start + int(length) if length else 0
    if not on:
        _forget(part)
        validator = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = reply.headers.get("Last-Modified")  # a weak tag does not promise equal bytes
        note = {"url": url, "validator": validator, "bytes": total}
        _note(part).write_text(json.dumps(note), encoding="utf-8")
    with part.open("ab" if on else "wb") as file:
        done = _copy(reply, file, start, lambda so_far: tell(so_far, total))
    if total and done < total:
        raise _Cut


def _copy(reply: Any, file: IO[bytes], start: int, tell: Callable[[int], None]) -> int:
    done = start
    tell(done)
    while block := reply.read(_BLOCK):
        file.write(block)
        done += len(block)
        tell(done)
    return done


def _begun(url: str, part: Path) -> int:
    """Bytes of this very file that an earlier try left; anything else is removed."""
    if _read_note(part).get("url") != url:
        _forget(part)
    return _size(part)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
