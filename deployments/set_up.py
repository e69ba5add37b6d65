"""Give a Prefect server what the deployments need: work pools with queues, and automations.

    python -m deployments.set_up --profile process            flow runs are processes of the workers' machines
    python -m deployments.set_up --profile docker --set gpu.image=registry.example/ddfm:1.4-gpu
    python -m deployments.set_up --profile kubernetes --set gpu.namespace=ddfm --set gpu.gpu_count=1 --limit gpu=8
    python -m deployments.set_up --profile ecs --set gpu.cluster=fusion --dry-run
    python -m deployments.set_up --profile process --notify slack-webhook/operators

Call it as often as you like: it says what it changed and what was there. What --set and --limit chose once stays
until they choose otherwise. Afterwards: prefect --no-prompt deploy --all
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from httpx import HTTPError, HTTPStatusError, codes
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from deployments.automations import ensure_automations
from deployments.changes import Change, Outcome
from deployments.job_templates import Profile
from deployments.work_pools import POOLS, PoolChoices, ensure_pool
from tasks.codes import ConfigurationError


@dataclass(frozen=True)
class SetUp:
    """What to set up.

    Attributes:
        profile: the type of the work pools.
        choices: what the site chooses of the pools.
        notify: ``TYPE/NAME`` of a Prefect notification block, None to tell nobody.
        dry_run: say what would change, and change nothing.
    """

    profile: Profile
    choices: PoolChoices
    notify: str | None
    dry_run: bool


async def set_up(client: PrefectClient, wanted: SetUp) -> AsyncIterator[Change]:
    """Bring the server to what is wanted, and tell of each thing.

    Raises:
        ConfigurationError: a pool has another type, or a variable or the block does not exist.
    """
    block_document_id = await _notification_block(client, wanted.notify) if wanted.notify else None
    if not wanted.dry_run:
        # What is wrong with one pool is found before another is changed.
        for pool in POOLS:
            await ensure_pool(client, pool, wanted.profile, wanted.choices, dry_run=True)
    for pool in POOLS:
        for change in await ensure_pool(client, pool, wanted.profile, wanted.choices, wanted.dry_run):
            yield change
    pools = [pool.name for pool in POOLS]
    for change in await ensure_automations(client, block_document_id, pools, wanted.dry_run):
        yield change
    if wanted.notify is None:
        yield Change("notifications", "of failures", Outcome.LEFT_OUT, "name a block with --notify")
    yield await _retention(client)


async def _retention(client: PrefectClient) -> Change:
    """Whether the server forgets old flow runs: a setting of its own environment, which nobody can change from here."""
    settings = (await client.request("GET", "/admin/settings")).json()
    vacuum = settings["server"]["services"]["db_vacuum"]
    if "flow_runs" in vacuum["enabled"]:
        return Change("retention", "of flow runs", Outcome.UNCHANGED, vacuum["retention_period"])
    return Change(
        "retention", "of flow runs", Outcome.LEFT_OUT,
        "they are kept for ever; start the server with PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs",
    )  # fmt: skip


async def _notification_block(client: PrefectClient, name: str) -> UUID:
    type_slug, _, block = name.partition("/")
    try:
        document = await client.read_block_document_by_name(block, type_slug, include_secrets=False)
    except ObjectNotFound as error:
        raise ConfigurationError(
            f"notify: the server has no block {name}; create it in the UI below Blocks, and give TYPE/NAME, such as "
            "slack-webhook/operators"
        ) from error
    return document.id


def parse(argv: Sequence[str]) -> SetUp:
    """The command line.

    Raises:
        ConfigurationError: an option has no name, or names no pool.
    """
    parser = argparse.ArgumentParser(
        prog="python -m deployments.set_up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--profile", required=True, type=Profile, choices=list(Profile), help="where flow runs live: the pools' type"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="POOL.VARIABLE=VALUE",
        help="default of a variable of a pool's job template, as JSON or plain text; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--limit", action="append", default=[], metavar="POOL=NUMBER",
        help="flow runs of a pool at a time, over all its workers; may be repeated",
    )  # fmt: skip
    parser.add_argument("--notify", metavar="TYPE/NAME", help="a Prefect notification block that is told of failures")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    arguments = parser.parse_args(argv)
    choices = PoolChoices(
        variables=dict(_variable(text) for text in arguments.set), limits=dict(_limit(text) for text in arguments.limit)
    )
    return SetUp(arguments.profile, choices, arguments.notify, arguments.dry_run)


def _variable(text: str) -> tuple[tuple[str, str], Any]:
    name, equals, value = text.partition("=")
    pool, dot, variable = name.partition(".")
    if not (equals and dot):
        raise ConfigurationError(f"set: {text} is not POOL.VARIABLE=VALUE, such as gpu.image=registry.example/ddfm:gpu")
    try:
        return (_pool(pool, "set"), variable), json.loads(value)
    except json.JSONDecodeError:
        return (pool, variable), value


def _limit(text: str) -> tuple[str, int]:
    pool, _, number = text.partition("=")
    if not number.isdecimal():
        raise ConfigurationError(f"limit: {text} is not POOL=NUMBER, such as gpu=8")
    return _pool(pool, "limit"), int(number)


def _pool(name: str, option: str) -> str:
    names = [pool.name for pool in POOLS]
    if name not in names:
        raise ConfigurationError(f"{option}: there is no pool {name}; the pools are {', '.join(names)}")
    return name


async def _run(wanted: SetUp) -> None:
    if not get_current_settings().api.url:
        raise ConfigurationError("PREFECT_API_URL: is not set; name a server, such as http://prefect.example:4200/api")
    changed = 0
    async with get_client() as client:
        async for change in set_up(client, wanted):
            print(change.sentence())
            changed += change.outcome in (Outcome.CREATED, Outcome.UPDATED)
    print(f"{'would change' if wanted.dry_run else 'changed'}: {changed}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 at a wrong configuration, 3 where the server does not answer."""
    try:
        asyncio.run(_run(parse(sys.argv[1:] if argv is None else argv)))
    except ConfigurationError as error:
        print(f"set_up: {error}", file=sys.stderr)
        return 2
    except HTTPError as error:
        if isinstance(error, HTTPStatusError) and error.response.status_code == codes.UNAUTHORIZED:
            print(
                "set_up: PREFECT_API_AUTH_STRING: is not the log-in of the Prefect server, which is the "
                "PREFECT_SERVER_API_AUTH_STRING of its environment",
                file=sys.stderr,
            )
            return 2
        print(f"set_up: the Prefect server at PREFECT_API_URL does not answer as it should: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
