"""What pydantic finds wrong with settings, in sentences for people."""

from __future__ import annotations

from pydantic import ValidationError

from tasks.codes import ConfigurationError


def wrong_fields(error: ValidationError) -> ConfigurationError:
    """One line per wrong field, with its value and what is allowed."""
    lines = []
    for detail in error.errors():
        message = detail["msg"].removeprefix("Value error, ")
        if detail["loc"]:
            lines.append(f"{'.'.join(map(str, detail['loc']))}: {message} (given: {detail['input']!r})")
        else:
            # What was given are all settings, and there may be a password in them.
            lines.append(message)
    return ConfigurationError("\n".join(lines))
