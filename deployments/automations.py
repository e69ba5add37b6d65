"""What the Prefect server does by itself: end runs whose machine is gone, start a lost parent again, tell people.

A worker that is killed together with its flow run leaves that run in the state Running for ever, and whoever waits
for it waits as long. Flow runs send heartbeats; the first automation marks a run of our flows as Crashed when it has
sent none for three of their periods, the second when it was taken and never began. A shard that crashed is sent again
by its parent; a run that nobody waits for is started by the third.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.changes import Change, Outcome
from flows.shard_runs import SILENT

HEARTBEAT: Final = timedelta(seconds=30)
"""Period of the heartbeats of our flows, Prefect's shortest: the work pools tell their flow runs to send them, the
command line its own. Flows of others send them every three minutes, unless they are told otherwise."""

RESTARTS: Final = 3
"""So many times a run is started again after a crash: one that kills its machine must come to an end."""

RESTART_AFTER: Final = timedelta(seconds=90)
"""A worker tells of a crash twice, the second time when it has run the flow's hooks in a process of their own. A run
that is started again in between is ended by the second, and its process goes on beside that of the next start."""

LATE: Final = timedelta(minutes=30)

WITHOUT_WORKERS: Final = timedelta(minutes=15)
"""A worker that is started anew, or its machine, is back before."""

NO_PLACE: Final = "Deployment concurrency limit reached."
"""What the server says of a run that it cancels because another one of its deployment is not over."""

BEGIN: Final = timedelta(minutes=30)
"""A worker that took a run and died before the run began leaves it in Pending, and its deployment's only place taken.
A node with a GPU may have to be started first."""

FLOW_RUN: Final = "prefect.flow-run"
WORK_POOL: Final = "prefect.work-pool"
UNATTENDED: Final = ("fuse-archive", "evaluate", "report")
"""Flows that nobody waits for, and that do no harm twice: the first two go on, the last writes its page again. Runs of
the other one are sent by a parent, which sends them again."""
ALL_FLOWS: Final = (*UNATTENDED, "fuse-shard")

_NOT_CRASHED: Final = (
    "Scheduled", "AwaitingRetry", "Late", "Pending", "Running", "Completed", "Failed", "Cancelled"
)  # fmt: skip


def _flow_runs(**labels: list[str]) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.id": [f"{FLOW_RUN}.*"], **labels})


def _of_flows(names: Iterable[str]) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": list(names)})


def _unattended_becomes(*states: str, **labels: list[str]) -> EventTrigger:
    """At once, for each run that nobody waits for."""
    return EventTrigger(
        expect={f"{FLOW_RUN}.{state}" for state in states},
        match=_flow_runs(**labels),
        match_related=[_of_flows(UNATTENDED)],
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def crash_silent_runs() -> AutomationCore:
    """Runs of our flows that send no heartbeat any more become Crashed."""
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    # A run that is put off, as by a node that is drained, is silent until it has a machine; its first heartbeat there
    # starts the watch again. Pending too: the process that goes may send one more heartbeat after it was put off.
    pauses = ("AwaitingRetry", "Scheduled", "Pending")
    return AutomationCore(
        name="crash-silent-flow-runs",
        description=f"Mark runs of {', '.join(ALL_FLOWS)} as Crashed that have sent no heartbeat for three periods.",
        trigger=EventTrigger(
            after={f"{FLOW_RUN}.heartbeat"},
            expect={f"{FLOW_RUN}.{event}" for event in ("heartbeat", *ends, *pauses)},
            match=_flow_runs(),
            match_related=[_of_flows(ALL_FLOWS)],
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=3 * HEARTBEAT,
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=SILENT, force=False)],
    )


def crash_runs_that_never_begin() -> AutomationCore:
    """Runs of our flows that stay Pending become Crashed, so that the next night is not kept from running."""
    moves = ("Running", "Completed", "Failed", "Cancelling", "Cancelled", "Crashed", "AwaitingRetry", "Scheduled")
    return AutomationCore(
        name="crash-flow-runs-that-never-begin",
        description=f"Mark runs of {', '.join(ALL_FLOWS)} as Crashed that a worker took and that do not begin.",
        trigger=EventTrigger(
            after={f"{FLOW_RUN}.Pending"},
            expect={f"{FLOW_RUN}.{state}" for state in moves},
            match=_flow_runs(),
            match_related=[_of_flows(ALL_FLOWS)],
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=BEGIN,
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed", state=StateType.CRASHED, message="A worker took it, and it did not begin.", force=False
            )
        ],
    )


def restart_lost_parents() -> AutomationCore:
    """Runs of a deployment that nobody waits for are started again when they crash, with the same parameters."""
    return AutomationCore(
        name="restart-lost-parents",
        description=f"Start crashed runs of {', '.join(UNATTENDED)} again, {RESTARTS} times.",
        trigger=EventTrigger(
            after={f"{FLOW_RUN}.Crashed"},
            expect={f"{FLOW_RUN}.{state}" for state in _NOT_CRASHED},
            # A run that crashed before it began has the count 0: its infrastructure is wrong, and stays so.
            match=_flow_runs(**{"prefect.run-count": [str(count) for count in range(1, RESTARTS + 1)]}),
            match_related=[_of_flows(UNATTENDED), ResourceSpecification({"prefect.resource.role": "deployment"})],
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=RESTART_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                name="AwaitingRetry", state=StateType.SCHEDULED, message="Started again after a crash.", force=False
            )
        ],
    )


def notifications(block_document_id: UUID, pools: Sequence[str]) -> list[AutomationCore]:
    """What people are told: failures, runs that nobody starts or that found no place, pools of these names that lost
    their workers, and results that drift."""

    def tell(name: str, description: str, trigger: EventTrigger, subject: str, body: str) -> AutomationCore:
        action = SendNotification(block_document_id=block_document_id, subject=subject, body=body)
        return AutomationCore(name=name, description=description, trigger=trigger, actions=[action])

    run = "{{ flow.name }}, run {{ flow_run.name }}"
    return [
        tell(
            "notify-failures",
            "Tell when a run failed, crashed, or fused less than its failed_share allows.",
            _unattended_becomes("Failed", "Crashed"),
            f"DDFM: {run}: {{{{ flow_run.state.name }}}}",
            "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
        ),
        tell(
            "notify-runs-without-place",
            "Tell when a run was cancelled because the one before is not over.",
            _unattended_becomes("Cancelled", **{"prefect.state-message": [NO_PLACE]}),
            f"DDFM: {run}: not started, the one before is not over",
            "Look at the log of the run of this deployment that is at work: it is slow, or waits for something.\n"
            "{{ flow_run|ui_url }}",
        ),
        tell(
            "notify-late-runs",
            "Tell when no worker took a run half an hour after its time.",
            EventTrigger(
                after={f"{FLOW_RUN}.Late"},
                expect={f"{FLOW_RUN}.{state}" for state in ("Pending", "Running", "Cancelled", "Crashed")},
                match=_flow_runs(),
                # A shard may wait for its turn, and for longer: its parent says for what.
                match_related=[_of_flows(UNATTENDED)],
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=LATE,
            ),
            f"DDFM: {run}: not started",
            "No worker took the run for half an hour. Look whether the workers of its pool are online.\n"
            "{{ flow_run|ui_url }}",
        ),
        tell(
            "notify-pools-without-workers",
            "Tell when the last worker of a pool went away and none came back.",
            EventTrigger(
                after={f"{WORK_POOL}.not-ready"},
                expect={f"{WORK_POOL}.ready", f"{WORK_POOL}.paused"},
                match=ResourceSpecification(
                    {"prefect.resource.id": [f"{WORK_POOL}.*"], "prefect.resource.name": list(pools)}
                ),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=WITHOUT_WORKERS,
            ),
            "DDFM: work pool {{ work_pool.name }}: no worker",
            "No worker of the pool is online. What is sent there waits for one.\n{{ work_pool|ui_url }}",
        ),
        tell(
            "notify-drift",
            "Tell when a report finds that results moved against the run before, or that too many pairs failed.",
            EventTrigger(
                expect={"ddfm.run.drifted", "ddfm.run.failed-share-exceeded"},
                match=ResourceSpecification({"prefect.resource.id": ["ddfm.destination.*"]}),
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            "DDFM: {{ event.event }}",
            "{{ event.payload }}\nLook at the report of the run.",
        ),
    ]


def automations(block_document_id: UUID | None, pools: Sequence[str]) -> list[AutomationCore]:
    """All of them; those that tell people only where there is a notification block."""
    told = [] if block_document_id is None else notifications(block_document_id, pools)
    return [crash_silent_runs(), crash_runs_that_never_begin(), restart_lost_parents(), *told]


async def ensure_automations(
    client: PrefectClient, block_document_id: UUID | None, pools: Sequence[str], dry_run: bool
) -> list[Change]:
    """Create what is missing, update what differs; one that was switched off by hand stays so."""
    changes = []
    for wanted in automations(block_document_id, pools):
        found = next(iter(await client.read_automations_by_name(wanted.name)), None)
        if found is None:
            outcome = Outcome.CREATED
            if not dry_run:
                await client.create_automation(wanted)
        elif _content(found) != _content(wanted):
            outcome = Outcome.UPDATED
            if not dry_run:
                await client.update_automation(found.id, wanted.model_copy(update={"enabled": found.enabled}))
        else:
            outcome = Outcome.UNCHANGED
        changes.append(Change("automation", wanted.name, outcome))
    return changes


def _content(automation: AutomationCore) -> Any:
    dump = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    return _comparable(dump)


def _comparable(value: Any) -> Any:
    """Without the ids that a server gives to triggers, and without the order of sets."""
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_comparable(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
