"""Stores and how they are reached: several S3 servers and accounts in one process.

What is not configured here comes from the environment, where botocore finds it: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, and ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Final, Self

import fsspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tasks.codes import ConfigurationError
from tasks.storage.errors import StorageError
from tasks.storage.paths import join, protocol

CONNECTIONS: Final = 64
"""The most that one store is given at the same time."""

_ENVIRONMENT: Final[tuple[str, ...]] = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
)  # fmt: skip


class PlaceOptions(BaseModel):
    """How the S3 places below one prefix are reached. What is not given comes from the environment.

    At most one source of credentials: the environment, ``profile``, ``credentials_variables`` or ``anonymous``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint_url: str | None = Field(
        None, pattern=r"^https?://[^@]+$", description="The server's address, such as https://s3.example.org."
    )
    region: str | None = Field(None, description="Region of the buckets; most servers other than AWS have none.")
    profile: str | None = Field(None, description="Name of a profile in the AWS credentials file.")
    anonymous: bool = Field(False, description="Send no credentials: for public archives.")
    credentials_variables: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="LAB_ reads LAB_AWS_ACCESS_KEY_ID, LAB_AWS_SECRET_ACCESS_KEY and LAB_AWS_SESSION_TOKEN.",
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout_s: float = Field(30.0, gt=0, description="Seconds without a byte after which a request counts as cut.")

    @model_validator(mode="after")
    def _one_source_of_credentials(self) -> Self:
        given = [name for name in self._sources_of_credentials if getattr(self, name, None)]
        if len(given) > 1:
            raise ValueError(f"give only one source of credentials, not {' and '.join(given)}")
        return self

    @property
    def _sources_of_credentials(self) -> tuple[str, ...]:
        return ("profile", "anonymous", "credentials_variables")


class PlaceWithKeys(PlaceOptions):
    """Options with keys that the caller took from a store of secrets; they are never printed and never serialised."""

    access_key_id: SecretStr = Field(exclude=True, repr=False)
    secret_access_key: SecretStr = Field(exclude=True, repr=False)
    session_token: SecretStr | None = Field(None, exclude=True, repr=False)

    @property
    def _sources_of_credentials(self) -> tuple[str, ...]:
        return (*super()._sources_of_credentials, "access_key_id")


_ENVIRONMENT_ALONE: Final = PlaceOptions.model_validate({})
_guard = threading.Lock()
_places: dict[str, PlaceOptions] = {}
_filesystems: dict[tuple[object, ...], Any] = {}


def configure_places(places: Mapping[str, PlaceOptions]) -> None:
    """Set how the places of this process are reached, in place of what was set before.

    Args:
        places: options by prefix of URL, such as ``s3://archive`` or ``s3://results/lab``; the longest prefix wins,
            and ends where a name ends: ``s3://archive`` is not for ``s3://archive-2``.

    Raises:
        ConfigurationError: a prefix is not an S3 URL with a bucket.
    """
    by_prefix: dict[str, PlaceOptions] = {}
    for prefix, options in places.items():
        name = _comparable(prefix)
        if protocol(prefix) != "s3" or name == "s3://":
            raise ConfigurationError(f"places: {prefix!r} must be an S3 URL, such as s3://bucket or s3://bucket/prefix")
        by_prefix[name] = options
    with _guard:
        _places.clear()
        _places.update(by_prefix)
        _filesystems.clear()


def options_of(uri: str) -> PlaceOptions:
    """How this place is reached."""
    with _guard:
        places = dict(_places)
    name = _comparable(uri) + "/"
    matching = [prefix for prefix in places if name.startswith(prefix + "/")]
    return places[max(matching, key=len)] if matching else _ENVIRONMENT_ALONE


def _comparable(uri: str) -> str:
    return join(uri).replace("s3a://", "s3://", 1)


def credentials_in_words(uri: str) -> str:
    """Where the credentials of an S3 place come from, for a sentence that begins with "check"."""
    options = options_of(uri)
    if options.anonymous:
        return "that the bucket is public, or give credentials"
    if options.profile:
        return f"the profile {options.profile} of the AWS credentials file and the rights of its key"
    if isinstance(options, PlaceWithKeys):
        return "the keys configured for this place and their rights"
    start = options.credentials_variables or ""
    return f"{start}AWS_ACCESS_KEY_ID, {start}AWS_SECRET_ACCESS_KEY and the rights of that key"


def endpoint_in_words(uri: str) -> str:
    """Where the address of an S3 place comes from, for a sentence that begins with "check"."""
    given = options_of(uri).endpoint_url
    return f"the endpoint {given}" if given else "AWS_ENDPOINT_URL"


def filesystem(uri: str) -> Any:
    """fsspec's instance for the store; one per process, and for S3 one per set of options and environment.

    Raises:
        StorageError: unknown protocol, a driver or a variable with credentials that is missing.
    """
    if protocol(uri) == "s3":
        return _s3_filesystem(uri)
    try:
        # A cached listing would hide what other processes wrote.
        return fsspec.filesystem(protocol(uri), use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise StorageError(uri, str(error), "use a path, s3://..., or install the driver of this protocol") from error


def _s3_filesystem(uri: str) -> Any:
    options = options_of(uri)
    variables = _ENVIRONMENT
    if options.credentials_variables:
        variables += tuple(f"{options.credentials_variables}{name}" for name in _ENVIRONMENT[:3])
    key = (os.getpid(), options, *(os.environ.get(name) for name in variables))
    with _guard:
        if key not in _filesystems:
            _filesystems[key] = _connect(uri, options)
        return _filesystems[key]


def _connect(uri: str, options: PlaceOptions) -> Any:
    settings: dict[str, Any] = {"anon": options.anonymous, **_credentials(uri, options)}
    if options.endpoint_url:
        settings["endpoint_url"] = options.endpoint_url
    if options.region:
        settings["client_kwargs"] = {"region_name": options.region}
    if options.profile:
        settings["profile"] = options.profile
    store = fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": options.connect_timeout_s,
            "read_timeout": options.read_timeout_s,
            "max_pool_connections": CONNECTIONS,
            # Retries are made in one place, where they are counted: others would multiply with them.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            # Each put carries an MD5, which every server verifies; many know nothing of the newer checksums.
            "request_checksum_calculation": "when_required",
        },
        **settings,
    )
    store.retries = 1
    return store


def _credentials(uri: str, options: PlaceOptions) -> dict[str, str]:
    """As s3fs calls them; empty where botocore is to find them."""
    if isinstance(options, PlaceWithKeys):
        found = {
            "key": options.access_key_id.get_secret_value(),
            "secret": options.secret_access_key.get_secret_value(),
        }
        if options.session_token is not None:
            found["token"] = options.session_token.get_secret_value()
        return found
    start = options.credentials_variables
    if start is None:
        return {}
    found = {}
    for name, variable in (("key", "AWS_ACCESS_KEY_ID"), ("secret", "AWS_SECRET_ACCESS_KEY")):
        if not os.environ.get(start + variable):
            raise StorageError(uri, f"its credentials are not in the environment (no {start}{variable})", "set it")
        found[name] = os.environ[start + variable]
    if token := os.environ.get(start + "AWS_SESSION_TOKEN"):
        found["token"] = token
    return found
