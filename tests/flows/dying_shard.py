"""The flow of shards in a process that is killed, as the kernel does it, by batches of more than one pair."""

from __future__ import annotations

import os
import signal
from typing import Any

from prefect import flow

import tasks.fuse
from flows.prefect_flows import fuse_shard as real

_fuse = tasks.fuse.fuse


def _fuse_or_die(first: Any, *arguments: Any, **options: Any) -> Any:
    if len(first) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _fuse(first, *arguments, **options)


@flow(name="fuse-shard", persist_result=False)
async def fuse_shard(
    dest: str,
    run_id: str,
    shard_id: str,
    token: int,
    number: int,
    places: dict[str, Any],
    shrink: int = 0,
    predecessor_may_live: bool = False,
) -> Any:
    """As the real one."""
    tasks.fuse.fuse = _fuse_or_die  # type: ignore[assignment]
    parameters = {
        "dest": dest, "run_id": run_id, "shard_id": shard_id, "token": token, "number": number, "places": places,
        "shrink": shrink, "predecessor_may_live": predecessor_may_live,
    }  # fmt: skip
    return await real.fn(**real.validate_parameters(parameters))
