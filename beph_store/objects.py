"""Addresses in object storage: ``s3://``, ``gs://`` and ``az://``, for slides and for stores.

Credentials and the endpoint come from the environment and from nowhere else; an address that carries any is
refused. The client is obstore: the Rust ``object_store`` that Lance itself is built on, so that one set of
variables serves both. obstore is imported when an address is first opened.

    s3://bucket/key      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL
    gs://bucket/key      GOOGLE_APPLICATION_CREDENTIALS (or GOOGLE_SERVICE_ACCOUNT)
    az://container/key   AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN, …)

An http:// endpoint is talked to only because it says http://. Nothing here waits for ever: an endpoint that is not
there is an error within about a minute.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from beph_store.errors import MissingExtra, ObjectStorageError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
#: ``Path("s3://b")`` is ``s3:/b``: what a command line made a path of is still an address.
_ADDRESS = re.compile(r"(s3|gs|az):/+(?=[^/])", re.IGNORECASE)
#: What copies a folder between a disk and a bucket.
_COPIES = {"s3": "aws s3 sync", "gs": "gcloud storage rsync -r", "az": "azcopy copy --recursive"}
#: Seconds: to connect, for one request, and from the first try of a request to its last.
CONNECT_S, REQUEST_S, RETRY_S = 5, 60, 30
#: A server that answers 500 or 503, or drops the connection, is asked this often again.
RETRIES = 8

_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
#: Variables whose values must never be seen.
_SECRETS = re.compile(r"SECRET|TOKEN|KEY|PASSWORD|SAS|SERVICE_ACCOUNT", re.ASCII)
_SIGNED = re.compile(r"\?.*(X-Amz-|X-Goog-|AWSAccessKeyId=|Signature=|sig=)", re.IGNORECASE)
_REFUSED = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|InvalidToken|ExpiredToken|AuthenticationFailed|"
    r"AuthorizationFailure|Unauthori[sz]ed|Forbidden|PermissionDenied|Unauthenticated",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"error sending request|error trying to connect|connection (refused|reset|closed)|dns error|timed? ?out|"
    r"HTTP error: (request or response body error|connect)",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"PermanentRedirect|AuthorizationHeaderMalformed|redirect without LOCATION", re.IGNORECASE
)
_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)

#: How ``object_store`` begins what it says.
_FROM_STORAGE = re.compile(
    r"Generic (S3|GCS|MicrosoftAzure) error|Error performing [A-Z]+ http|credentials provider"
)

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_OPEN: dict[tuple[object, ...], ObjectStore] = {}


@dataclass(frozen=True, slots=True)
class Address:
    """An address taken apart; ``key`` has no slash at its ends and is "" for the whole bucket."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")


def is_url(text: object) -> bool:
    """Whether this is an address in object storage, and not a path."""
    return isinstance(text, str) and text.partition("://")[0].lower() in SCHEMES and "://" in text


def address_in(path: object) -> str | None:
    """The address that a path was made of, with its two slashes; None for a path on a disk."""
    found = _ADDRESS.match(str(path))
    return f"{found[1].lower()}://{str(path)[found.end() :]}" if found else None


def require_disk(path: object, what: str, *, out: bool = False) -> None:
    """UsageError for an address where ``what`` is read from a disk, or with ``out`` written to one; names the cure."""
    url = address_in(path)
    if url is None:
        return
    address = parse(url)
    copy = _COPIES[address.scheme]
    cure = (
        f"write to DIR, then `{copy} DIR {address}`"
        if out
        else f"`{copy} {address} DIR` first, then pass DIR"
    )
    raise UsageError(
        f"{what} to a disk, not to object storage: {cure}" if out else f"{what} from a disk: {cure}"
    )


def parse(url: str) -> Address:
    """The parts of an address. Raises UsageError for one that is none, or that carries credentials."""
    scheme, found, rest = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in SCHEMES:
        raise UsageError(f"{redacted(url)} is not an address in object storage: s3://, gs:// or az:// are")
    bucket, _, key = rest.partition("/")
    if "@" in bucket or ":" in bucket or _SIGNED.search(key):
        raise UsageError(
            f"an address must not carry credentials: leave {scheme}://BUCKET/KEY and set {_CREDENTIALS[scheme]}"
        )
    if not bucket:
        raise UsageError(f"{url} names no bucket: {scheme}://BUCKET/KEY")
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise UsageError(f"{url} has . or .. in it: object storage knows no such folders")
    return Address(scheme, bucket, "/".join(parts))


def open_bucket(url: str) -> tuple[ObjectStore, str]:
    """The bucket of an address as an obstore store, and the key in it; nothing is sent yet.

    Raises UsageError for an address or an environment that cannot be meant, MissingExtra without obstore.
    Wrap what is done with the store in ``translated``.
    """
    address = parse(url)
    _check_environment(address)
    marks = (address.scheme, address.bucket, os.getpid(), _environment_digest())
    if marks not in _OPEN:
        _OPEN[marks] = _connect(address)
    return _OPEN[marks], address.key


def storage_options(url: object) -> dict[str, str] | None:
    """What Lance is told beside an address; None for a path. No secret is in it: those it reads from the environment.

    Raises UsageError as ``open_bucket`` does.
    """
    if not is_url(url):
        return None
    address = parse(str(url))
    _check_environment(address)
    options = {
        "connect_timeout": f"{CONNECT_S}s",
        "timeout": f"{REQUEST_S}s",
        "client_max_retries": str(RETRIES),
        "client_retry_timeout": str(RETRY_S),
    }
    if address.scheme == "s3":
        options |= {f"aws_{name}": value for name, value in _s3_options().items()}
    if _is_plain(endpoint(address.scheme)):
        options["allow_http"] = "true"
    return options


def endpoint(scheme: str) -> str | None:
    """The server that the environment names for a scheme, None for the cloud's own."""
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_BASE_URL",),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }[scheme]
    return next((os.environ[name].rstrip("/") for name in names if os.environ.get(name)), None)


@contextmanager
def translated(url: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn obstore's errors, ``but`` for those, into FileNotFoundError (no such object) and ObjectStorageError."""
    from obstore.exceptions import BaseError

    try:
        yield
    except but:
        raise
    except FileNotFoundError as error:  # obstore raises Python's own
        if _NO_BUCKET.search(str(error)):
            raise ObjectStorageError(explain(error, url), path=url) from None
        raise FileNotFoundError(2, "no such object", url) from None
    except (BaseError, OSError) as error:
        if isinstance(error, ObjectStorageError):
            raise
        # Not chained: the original's text may hold what was signed.
        raise ObjectStorageError(explain(error, url), path=url) from None


def explain(error: BaseException, url: object) -> str:
    """One line that says what went wrong at ``url`` and the cure, from an error of obstore or Lance; no secrets."""
    text = str(error).partition("Debug source:")[0]
    text = re.sub(r"(max_retries|retry_timeout): \S+", "", text)
    address = parse(str(url)) if is_url(url) else Address("s3", "", "")
    server, bucket = _shown(address), address.bucket or "the bucket"
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if _NO_BUCKET.search(text):
        return f"{server} has no bucket {bucket}: make it first, or correct the address"
    if not status and _UNREACHABLE.search(text):
        variable = "AWS_ENDPOINT_URL" if address.scheme == "s3" else "the endpoint's variable"
        return f"{server} cannot be reached: check {variable} and the network"
    if status in (401, 403) or _REFUSED.search(text):
        names = _CREDENTIALS[address.scheme]
        return f"{server} refuses these credentials: check {names}, and that they may read and write {bucket}"
    if status == 301 or _ELSEWHERE.search(text):
        return f"{bucket} is in another region: set AWS_REGION to that of the bucket"
    if status == 429 or status >= 500:
        return f"{server} keeps answering {status}: nothing is lost, run the same command again later"
    return f"{server}: {redacted(text.splitlines()[0] if text else type(error).__name__)[:200]}"


def is_storage_error(error: BaseException) -> bool:
    """Whether an error of Lance is one of a bucket."""
    return bool(_FROM_STORAGE.search(str(error)))


def redacted(text: str) -> str:
    """The text without any secret that the environment holds, and without what an address signs with."""
    for name, value in os.environ.items():
        if name.startswith(_PREFIXES) and _SECRETS.search(name) and len(value) >= 4:
            text = text.replace(value, f"<{name}>")
    text = re.sub(r"://[^/@\s]+@", "://<credentials>@", text)
    return re.sub(
        r"((?:X-Amz-|X-Goog-)[A-Za-z-]+|AWSAccessKeyId|Signature|sig)=[^&\s]+", r"\1=<…>", text, flags=re.I
    )


def _connect(address: Address) -> ObjectStore:
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise MissingExtra(f'{address.scheme}:// needs obstore: pip install "beph-store[remote]"') from None
    client: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=REQUEST_S),
        "allow_http": _is_plain(endpoint(address.scheme)),
    }
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    retry: Any = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": backoff,
    }
    with translated(str(address)):
        if address.scheme == "s3":
            config: Any = _s3_options()
            return S3Store(address.bucket, config=config, client_options=client, retry_config=retry)
        if address.scheme == "gs":
            return GCSStore(address.bucket, client_options=client, retry_config=retry)
        return AzureStore(address.bucket, client_options=client, retry_config=retry)


def _s3_options() -> dict[str, str]:
    """What the environment says of the server, without its secrets; path-style addresses where it names one."""
    env, server = os.environ, endpoint("s3")
    options = {}
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    if region or server:
        options["region"] = region or "us-east-1"
    if _is_anonymous():
        options["skip_signature"] = "true"
    if server:
        options["endpoint"] = server
        options["virtual_hosted_style_request"] = env.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false")
    return options


def _check_environment(address: Address) -> None:
    """UsageError where the environment cannot be enough: the client would go and ask the network for a minute."""
    env = os.environ
    server = endpoint(address.scheme)
    if server and not re.fullmatch(r"https?://[^@/]+(/[^@]*)?", server):
        raise UsageError("the endpoint must be http://… or https://… without credentials in it")
    if address.scheme != "s3":
        return
    if not server and not (env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")):
        raise UsageError(
            f"{address}: set AWS_REGION to the bucket's region, or AWS_ENDPOINT_URL to your own server"
        )
    keys = env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY")
    others = (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
    )
    if not (keys or _is_anonymous() or any(env.get(name) for name in others)):
        raise UsageError(
            f"{address}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles are not read)"
        )


def _is_anonymous() -> bool:
    return os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")


def _is_plain(server: str | None) -> bool:
    return bool(server and server.lower().startswith("http://"))


def _shown(address: Address) -> str:
    """The server's name in a message."""
    return re.sub(r"://[^/@]*@", "://", endpoint(address.scheme) or f"{address.scheme}://{address.bucket}")


def _environment_digest() -> str:
    """Names an environment without holding it: another set of credentials is another client."""
    own = sorted((name, value) for name, value in os.environ.items() if name.startswith(_PREFIXES))
    return hashlib.sha256(repr(own).encode()).hexdigest()


def name_of(url: str) -> str:
    """The last part of an address, as ``Path.name`` is of a path."""
    return PurePath(parse(url).key).name
