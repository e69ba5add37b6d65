"""Create the automation that a server needs to notice flow runs whose machine is gone.

    PREFECT_API_URL=... python -m deployments.automations

A worker that is killed together with its flow run leaves that run in the state Running for ever, and whoever waits
for it waits as long. Flow runs send heartbeats; the automation marks a run as Crashed when it has sent none for
three of their periods. Workers need PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 for the period assumed here.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME = "crash-silent-flow-runs"
HEARTBEAT = timedelta(seconds=30)
FLOW_RUN = "prefect.flow-run"


def silent_runs_crash() -> Automation:
    """The automation, not created yet."""
    ends = {f"{FLOW_RUN}.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=NAME,
        description="Mark flow runs as Crashed that have sent no heartbeat for three periods.",
        trigger=EventTrigger(
            after={f"{FLOW_RUN}.heartbeat"},
            expect={f"{FLOW_RUN}.heartbeat"} | ends,
            match=ResourceSpecification({"prefect.resource.id": [f"{FLOW_RUN}.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=3 * HEARTBEAT,
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed", state=StateType.CRASHED, message="No heartbeat for three periods.", force=False
            )
        ],
    )


async def ensure_automation() -> bool:
    """Create the automation unless the server has one of its name; whether it was created."""
    try:
        await Automation.aread(name=NAME)
    except ValueError:
        await silent_runs_crash().acreate()
        return True
    return False


if __name__ == "__main__":
    print(f"{NAME}: {'created' if asyncio.run(ensure_automation()) else 'exists already'}")
