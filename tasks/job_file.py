"""Jobs from what people write: checked fields, YAML, and a template that explains them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.codes import ConfigurationError
from tasks.job import Job, Place
from tasks.volume_options import VolumeOptions


def make_job(settings: Mapping[str, Any]) -> Job:
    """Validate ``settings``.

    Raises:
        ConfigurationError: one line per wrong field, with its value and what is allowed.
    """
    try:
        return Job.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentence(settings, detail) for detail in error.errors())) from error


def _sentence(settings: Mapping[str, Any], detail: Any) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else "job"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if field == "places":
        where = ".".join(map(str, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            return f"{where}: there is no such field; the fields are {', '.join(Place.model_fields)}"
        # What was given is not repeated: somebody may have written a secret there.
        return f"{where}: {message}"
    if field == "volumes" and len(detail["loc"]) > 1:
        return f"{'.'.join(map(str, detail['loc']))}: {_volumes_sentence(detail, message)}"
    if detail["type"] == "extra_forbidden":
        names = ", ".join(info.alias or name for name, info in Job.model_fields.items())
        return f"{field}: there is no such field; the fields are {names}"
    if detail["type"] == "missing":
        return f"{field}: is missing; {Job.model_fields[field].description}"
    given = f" (given: {settings[field]!r})" if field in settings else ""
    return f"{field}: {message}{given}"


def _volumes_sentence(detail: Any, message: str) -> str:
    if detail["type"] == "extra_forbidden":
        return f"there is no such field; the fields are {', '.join(VolumeOptions.model_fields)}"
    return f"{message} (given: {detail['input']!r})"


def read_job(text: str, overrides: Mapping[str, Any] | None = None) -> Job:
    """A job from YAML, with fields of ``overrides`` in place of the file's.

    Raises:
        ConfigurationError: not YAML, not a mapping, or a field is wrong.
    """
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the job file is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigurationError("the job file must be a mapping of fields to values; see `ddfm config --template`")
    return make_job(settings | dict(overrides or {}))


def job_template() -> str:
    """A commented job file with every field at its default."""
    lines = ["# A job for `ddfm fuse --config FILE`. Fields that are commented out have the value shown.", ""]
    examples = {"first": "archive/infrared", "second": "archive/visible", "out": "archive/fused"}
    for name, info in Job.model_fields.items():
        field = info.alias or name
        lines.append(f"# {info.description}")
        if field in examples:
            lines += [f"{field}: {examples[field]}", ""]
        elif field == "volumes":
            lines.append(f"# {field}: # with these fields:")
            for option, detail in VolumeOptions.model_fields.items():
                lines += [f"#   # {detail.description}", f"#   {option}: {json.dumps(detail.default)}"]
            lines.append("")
        else:
            value = json.dumps(info.get_default(call_default_factory=True))
            lines += [f"# {field}: {value}", ""]
    return "\n".join(lines)
