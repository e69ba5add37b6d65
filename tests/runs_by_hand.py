"""Flow runs on a real server that no worker takes: a test sets their states."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import StateType
from prefect.states import State


@flow(name="fuse-archive")
def a_parent() -> None:
    """Never run: only its states are set."""


@flow(name="report")
def a_report() -> None:
    """Likewise."""


@flow(name="fuse-shard")
def a_shard() -> None:
    """Likewise."""


async def wait_for(condition: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    """What ``condition`` says in the end: when it says something, or when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.3)
    return found


async def deployed_run(client: Any, flow_: Any) -> uuid.UUID:
    """A flow run of a deployment of its own; its id."""
    deployment_id = await (await flow_.ato_deployment(f"of-{uuid.uuid4().hex[:8]}")).apply()
    run_id: uuid.UUID = (await client.create_flow_run_from_deployment(deployment_id)).id
    return run_id


async def set_state(
    client: Any, run_id: uuid.UUID, name: str, state_type: StateType | None = None, message: str | None = None
) -> None:
    """Set the state of a flow run, whatever it was in."""
    state = State(type=state_type or StateType(name.upper()), name=name, message=message)
    await client.set_flow_run_state(run_id, state, force=True)
