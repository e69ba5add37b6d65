"""What a process needs beside the job: how its places are reached, and the secret of its pseudonyms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tasks.codes import ConfigurationError
from tasks.job import SECRET_VARIABLE, Job, Place
from tasks.privacy import Pseudonyms, make_pseudonyms, secret_of_environment
from tasks.storage import PlaceOptions, PlaceWithKeys, configure_places


def use_places(places: Mapping[str, Place]) -> None:
    """Without Prefect.

    Raises:
        ConfigurationError: a place takes its credentials from a Prefect block.
    """
    for prefix, place in places.items():
        if place.credentials_block:
            raise ConfigurationError(
                f"places: {prefix} takes its credentials from the Prefect block {place.credentials_block}, which "
                "--no-prefect cannot read; use credentials_variables or profile"
            )
    configure_places(places)


def use_secret(job: Job) -> Pseudonyms | None:
    """The pseudonyms of a job under the secret of the environment; None where it needs none.

    Raises:
        ConfigurationError: it needs one, and there is none, or it lies in a Prefect block.
    """
    if not job.needs_pseudonyms:
        return None
    secret = secret_of_environment()
    if secret is None and job.pseudonym_block:
        raise ConfigurationError(
            f"pseudonym_block: this command cannot read the Prefect block {job.pseudonym_block}; set {SECRET_VARIABLE} "
            "to the same secret"
        )
    return make_pseudonyms(secret)


async def load_secret(job: Job) -> Pseudonyms | None:
    """The same, also from a Prefect Secret block.

    Raises:
        ConfigurationError: a secret is needed, and there is none.
    """
    if not job.needs_pseudonyms:
        return None
    if job.pseudonym_block is None:
        return make_pseudonyms(secret_of_environment())
    value = (await _secret_block(job.pseudonym_block, "pseudonym_block")).get()
    return make_pseudonyms(str(value).encode())


async def _secret_block(name: str, field: str) -> Any:
    from prefect.blocks.system import Secret

    try:
        block: Secret[Any] = await Secret.aload(name)
    except ValueError as error:
        raise ConfigurationError(f"{field}: the Prefect server has no Secret block {name}; create it") from error
    return block


async def load_places(places: Mapping[str, Place]) -> None:
    """With the keys of Prefect Secret blocks.

    Raises:
        ConfigurationError: a block does not exist or does not hold keys.
    """
    options: dict[str, PlaceOptions] = {}
    for prefix, place in places.items():
        if place.credentials_block is None:
            options[prefix] = place
            continue
        keys = (await _secret_block(place.credentials_block, f"places: {prefix}")).get()
        options[prefix] = _with_keys(prefix, place.model_dump(exclude={"credentials_block"}), keys)
    configure_places(options)


def _with_keys(prefix: str, fields: Mapping[str, Any], keys: object) -> PlaceWithKeys:
    try:
        found = json.loads(keys) if isinstance(keys, str) else keys
    except ValueError as error:
        raise ConfigurationError(f"places: {prefix}: its Secret block is no JSON") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"places: {prefix}: its Secret block must be an object with access_key_id and so on")
    try:
        return PlaceWithKeys.model_validate({**fields, **found})
    except ValidationError as error:
        # Without the values: they are secrets.
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"places: {prefix}: its Secret block does not fit: {wrong}") from None
