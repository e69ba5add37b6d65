"""Tell this process how the places of a job are reached; every process of a run does so before it touches one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tasks.codes import ConfigurationError
from tasks.job import Place
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


async def load_places(places: Mapping[str, Place]) -> None:
    """With the keys of Prefect Secret blocks.

    Raises:
        ConfigurationError: a block does not exist or does not hold keys.
    """
    from prefect.blocks.system import Secret

    options: dict[str, PlaceOptions] = {}
    for prefix, place in places.items():
        if place.credentials_block is None:
            options[prefix] = place
            continue
        try:
            block: Secret[Any] = await Secret.aload(place.credentials_block)
        except ValueError as error:
            raise ConfigurationError(
                f"places: {prefix}: the Prefect server has no Secret block {place.credentials_block}; create it"
            ) from error
        keys = block.get()
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
