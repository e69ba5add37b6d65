"""A site as docs/operations.md sets it up: PostgreSQL, a Prefect server, an S3 store, work pools, and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests import servers

REPOSITORY = Path(__file__).parents[1]
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
POLL_S = 0.5
PAGE = 200


@dataclass
class PoolSite:
    """What runs, and questions to the Prefect server.

    Attributes:
        environment: settings of the workers started from now on, and of what they start.
        workers: by the name that they were started under.
    """

    stack: ExitStack
    database: servers.Service
    prefect: servers.Service
    store: servers.S3Server
    environment: dict[str, str]
    workers: dict[str, servers.Server] = field(default_factory=dict)

    def start_worker(self, name: str, pool: str, limit: int | None = None) -> None:
        """A worker, as a service manager would start it; it takes the place of one of that name."""
        context = servers.prefect_worker(
            self.prefect.url, pool, name=f"{name}-{time.monotonic_ns()}", limit=limit, environment=self.environment
        )
        self.workers[name] = self.stack.enter_context(context)

    def api(self, path: str, body: Any = None) -> Any:
        """An answer of the Prefect server, waited for."""
        for _ in range(300):
            try:
                return servers.http_json(f"{self.prefect.url}{path}", body)
            except OSError:
                time.sleep(1)
        raise TimeoutError(path)

    def start_run(self, job: Mapping[str, Any], deployment: str = "fuse-archive/on-demand") -> str:
        """The id of a new flow run of a deployment."""
        deployment_id = self.api(f"/deployments/name/{deployment}")["id"]
        run = self.api(f"/deployments/{deployment_id}/create_flow_run", {"parameters": {"job": job}})
        return str(run["id"])

    def run(self, run_id: str) -> Mapping[str, Any]:
        """A flow run."""
        found: Mapping[str, Any] = self.api(f"/flow_runs/{run_id}")
        return found

    def runs(self, flow: str) -> list[Mapping[str, Any]]:
        """All flow runs of a flow."""
        found: list[Mapping[str, Any]] = []
        while True:
            body = {"flows": {"name": {"any_": [flow]}}, "limit": PAGE, "offset": len(found), "sort": "ID_DESC"}
            page = self.api("/flow_runs/filter", body)
            found += page
            if len(page) < PAGE:
                return found

    def shards(self, dest: str) -> list[Mapping[str, Any]]:
        """The flow runs of shards for a destination."""
        return [run for run in self.runs("fuse-shard") if run["parameters"]["dest"] == dest]

    def last_work(self, runs: Sequence[Mapping[str, Any]]) -> float:
        """When a task run of these flow runs ended last; seconds since the epoch."""
        chosen = {"id": {"any_": [run["id"] for run in runs]}}
        found = self.api("/task_runs/filter", {"flow_runs": chosen, "sort": "END_TIME_DESC", "limit": 1})
        return datetime.fromisoformat(found[0]["end_time"]).timestamp()

    def wait_for(self, run_id: str, seconds: float = 900) -> Mapping[str, Any]:
        """Until a flow run is over for good: a parent that crashed is started again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            run = self.run(run_id)
            if run["state_type"] in FINAL - {"CRASHED"}:
                return run
            time.sleep(POLL_S)
        return self.run(run_id)


def deploy(api_url: str) -> None:
    """Work pools, automations and deployments, by the commands of docs/operations.md."""
    environment = {**os.environ, "PREFECT_API_URL": api_url}
    for command in (["deployments.set_up", "--profile", "process"], ["prefect", "--no-prompt", "deploy", "--all"]):
        words = [sys.executable, "-m", *command]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextmanager
def pool_site(*, ui: bool = False) -> Iterator[PoolSite]:
    """A site with everything deployed, a worker for parents (`parents`) and two for shards (`gpu-1`, `gpu-2`)."""
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres_service())
        settings = {"PREFECT_SERVER_UI_ENABLED": str(ui).lower()}
        prefect = stack.enter_context(servers.prefect_service(database.url, settings))
        store = stack.enter_context(servers.s3_server())
        site = PoolSite(stack, database, prefect, store, {**store.environment(), "OMP_NUM_THREADS": "1"})
        deploy(prefect.url)
        site.start_worker("parents", "orchestration")
        for name in ("gpu-1", "gpu-2"):
            site.start_worker(name, "gpu", 1)
        yield site
