"""The order of a model's fields in forms that are made from its JSON schema."""

from __future__ import annotations

from typing import Any


def in_order(schema: dict[str, Any]) -> None:
    """Number the properties of a model's JSON schema, for ``json_schema_extra``.

    PostgreSQL keeps the keys of a JSON document by their length; Prefect's forms go by ``position``.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position
