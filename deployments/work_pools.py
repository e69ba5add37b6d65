"""The work pools of prefect.yaml: their queues, and how they are brought about on a server."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.utilities.schema_tools.validation import ValidationError, validate

from deployments.changes import Change, Outcome
from deployments.job_templates import (
    Profile,
    Resources,
    Template,
    choose,
    job_template,
    keep_choices,
    secrets_in,
)
from flows.pool_view import SHARD_TIME_LIMIT
from tasks.codes import ConfigurationError


@dataclass(frozen=True)
class Queue:
    """A queue of a pool; of two that have work, the lower priority number goes first."""

    name: str
    priority: int


@dataclass(frozen=True)
class Pool:
    """A work pool, whatever its type; each has the same queues."""

    name: str
    description: str
    resources: Resources


QUEUES: Final = (Queue("on-demand", 1), Queue("nightly", 2))
"""What a person waits for goes before the schedule's; the queue ``default``, which Prefect makes, comes last."""

POOLS: Final = (
    Pool(
        "orchestration",
        "Parent flows: plan, send shards, reconcile, report. No GPU.",
        Resources(cpus=1, memory=2, gpus=0, shared_memory=1, time_limit=timedelta(days=7)),
    ),
    Pool(
        "gpu",
        "Shards on machines with an NVIDIA GPU, one at a time per GPU.",
        # Fits on the smallest machines with one GPU that clouds let: 4 cores, 16 GiB.
        Resources(cpus=3, memory=12, gpus=1, shared_memory=1, time_limit=SHARD_TIME_LIMIT),
    ),
    Pool(
        "cpu",
        "Shards on machines without a GPU.",
        Resources(cpus=2, memory=6, gpus=0, shared_memory=1, time_limit=SHARD_TIME_LIMIT),
    ),
)


@dataclass(frozen=True)
class PoolChoices:
    """What a site chooses for itself.

    Attributes:
        variables: by pool and name of a variable of its job template, the default it is to have.
        limits: by pool, how many of its flow runs may be at work at a time.
    """

    variables: Mapping[tuple[str, str], Any]
    limits: Mapping[str, int]


async def ensure_pool(
    client: PrefectClient, pool: Pool, profile: Profile, choices: PoolChoices, dry_run: bool
) -> list[Change]:
    """Create the pool and its queues, or bring them to what they should be; what a site chose before stays.

    Raises:
        ConfigurationError: a pool of this name has another type, or a chosen variable does not exist, does not fit or
            holds a secret.
    """
    wanted = await job_template(profile, pool.resources)
    try:
        found = await client.read_work_pool(pool.name)
    except ObjectNotFound:
        found = None
    if found is not None and found.type != profile:
        raise ConfigurationError(
            f"profile: the server's work pool {pool.name} is of type {found.type}, not {profile}; take that profile, "
            f"or delete the pool (prefect work-pool delete {pool.name}) and deploy again afterwards"
        )
    kept = keep_choices(wanted, found.base_job_template) if found else wanted
    template = _chosen(kept, pool.name, profile, choices)
    limit = choices.limits.get(pool.name, found.concurrency_limit if found else None)
    detail = f"type {profile}" + (f", at most {limit} runs at a time" if limit is not None else "")
    if found is None:
        outcome = Outcome.CREATED
        if not dry_run:
            await client.create_work_pool(
                WorkPoolCreate(
                    name=pool.name,
                    type=profile,
                    description=pool.description,
                    base_job_template=template,
                    concurrency_limit=limit,
                )
            )
    elif (found.description, found.base_job_template, found.concurrency_limit) != (pool.description, template, limit):
        outcome = Outcome.UPDATED
        if not dry_run:
            update = WorkPoolUpdate(description=pool.description, base_job_template=template, concurrency_limit=limit)
            await client.update_work_pool(pool.name, update)
    else:
        outcome = Outcome.UNCHANGED
    changes = [Change("work pool", pool.name, outcome, detail)]
    exists = found is not None or not dry_run
    return changes + [await _ensure_queue(client, pool.name, queue, exists, dry_run) for queue in QUEUES]


def _chosen(template: Template, pool: str, profile: Profile, choices: PoolChoices) -> Template:
    chosen = deepcopy(template)
    variables = chosen["variables"]
    for (of_pool, name), value in choices.variables.items():
        if of_pool != pool:
            continue
        if name not in variables["properties"]:
            allowed = ", ".join(sorted(variables["properties"]))
            raise ConfigurationError(f"set: pool {pool} has no variable {name}; it has {allowed}")
        try:
            validate({name: value}, variables, raise_on_error=True, ignore_required=True)
        except ValidationError as error:
            raise ConfigurationError(f"set: {pool}.{name}: {error}") from error
        if name == "env" and (secrets := secrets_in(value)):
            raise ConfigurationError(
                f"set: {pool}.env: {', '.join(secrets)}: a pool shows its variables to everyone who sees the server; "
                f"secrets belong into {profile.secrets_belong}"
            )
        choose(chosen, name, value)
    return chosen


async def _ensure_queue(client: PrefectClient, pool: str, queue: Queue, pool_exists: bool, dry_run: bool) -> Change:
    found = None
    if pool_exists:
        queues = await client.read_work_queues(work_pool_name=pool)
        found = next((one for one in queues if one.name == queue.name), None)
    if found is None:
        outcome = Outcome.CREATED
        if not dry_run:
            await client.create_work_queue(name=queue.name, work_pool_name=pool, priority=queue.priority)
    elif found.priority != queue.priority:
        outcome = Outcome.UPDATED
        if not dry_run:
            await client.update_work_queue(found.id, priority=queue.priority)
    else:
        outcome = Outcome.UNCHANGED
    return Change("work queue", f"{pool}/{queue.name}", outcome, f"priority {queue.priority}")
