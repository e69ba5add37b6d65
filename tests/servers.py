"""Real servers for tests: PostgreSQL, a Prefect server, a process worker, and an S3 store (Ceph RADOS Gateway).

Each is a context manager that starts processes on free loopback ports in a temporary folder, waits until they answer,
and on leaving ends the processes it started, and no others. A failure to start raises ServerError with the end of the
server's log. A missing Debian package skips the test, or fails it where the environment says CI=true.

Every process gets SIGINT at its default, since a worker started with SIGINT ignored cannot stop by itself, and is ended
by the kernel when the thread that started it ends, so that a killed test run leaves nothing behind. That is why servers
are started from the main thread only.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

LOOPBACK = "127.0.0.1"
MARK = "DDFM_TEST_SERVER"  # in the environment of every server process and, inherited, of what it starts


class ServerError(RuntimeError):
    """A server did not start."""


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A running server process: its pid, its log, how to end it, and how to start it again."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    mark: str
    launch: Callable[[], subprocess.Popen[bytes]]
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    last_words: str = ""  # the end of the log, kept when the server is stopped and its folder goes

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the server itself still runs."""
        return self.process.poll() is None

    def tail(self, characters: int = 4000) -> str:
        """The end of the server's log."""
        with contextlib.suppress(OSError):
            self.last_words = self.log.read_text(errors="replace")
        return self.last_words[-characters:]

    def pids(self) -> list[int]:
        """The server's process and everything it started that still runs, orphans included."""
        mark = f"{MARK}={self.mark}".encode()
        found = {self.pid} if self.alive else set()
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                parents[pid] = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                if mark in (entry / "environ").read_bytes().split(b"\0"):  # zombies have none
                    found.add(pid)
        # PostgreSQL's processes write their titles over their environment: they are found through their parent
        while grown := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= grown
        return sorted(found)

    def children(self) -> list[int]:
        """What the server started and still runs (for a worker: the flow runs' processes)."""
        return [pid for pid in self.pids() if pid != self.pid]

    def rss(self) -> int:
        """Resident bytes of the server and its children."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total

    def kill(self) -> None:
        """SIGKILL to the server and everything it started: what is left is what a lost machine would leave."""
        self.tail()
        for sweep in range(20):
            pids = self.pids()
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            if sweep:
                time.sleep(0.05)  # killed processes that are not ours to reap take a moment to disappear

    def start_again(self) -> None:
        """Start a server that was ended, in the same place and with the same settings; it does not answer yet."""
        self.process = self.launch()

    def stop(self) -> None:
        """Ask the server to stop, wait for it, then end what is left of it."""
        if self.alive:
            self.process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.grace)
        self.kill()


def _start(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    *,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    grace: float = 10.0,
) -> Server:
    """Start a process whose log is `<folder>/<name>.log`."""
    if threading.current_thread() is not threading.main_thread():
        raise ServerError("servers are started from the main thread: they end with the thread that started them")
    prefix: list[str] = []
    if shutil.which("setpriv"):
        prefix = ["env", "--default-signal=INT", "setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG")]
    mark = uuid.uuid4().hex
    log = folder / f"{name}.log"
    as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}

    def launch() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                [*prefix, *map(str, command)],
                cwd=folder,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user,
            )

    return Server(name, launch(), log, mark, launch, stop_signal, grace)


def _await(ready: Callable[[], bool], server: Server, seconds: float, pause: float = 0.05) -> None:
    """Wait until `ready()`, or raise with the end of the log."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not server.alive:
            raise ServerError(f"{server.name} ended with status {server.process.returncode}:\n{server.tail()}")
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} did not answer within {seconds:.0f} s:\n{server.tail()}")
        time.sleep(pause)


def _call(command: Sequence[str | Path], seconds: float, environment: Mapping[str, str], **popen: Any) -> str:
    """Run a short command to its end; its output, or ServerError with it."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=dict(environment),
            **popen,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{Path(words[0]).name} took more than {seconds:.0f} s: {' '.join(words)}") from error
    if done.returncode:
        raise ServerError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def free_ports(count: int = 1) -> list[int]:
    """Free loopback ports, from below the range in which the kernel puts outgoing connections."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.SystemRandom().randrange(15000, 32000)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports.append(port)
        return ports


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def http_json(url: str, body: Any = None, timeout: float = 10.0) -> Any:
    """GET, or POST where there is a body, of JSON on loopback, past any proxy."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as answer:
        return json.loads(answer.read() or b"null")


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without the settings of Prefect, S3 and PostgreSQL, and with the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "PG"))}
    return {**kept, **settings}


@contextlib.contextmanager
def _folder(kind: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f"ddfm-{kind}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _missing(programs: str, packages: str) -> NoReturn:
    import pytest

    reason = f"{programs} not found: apt-get install --no-install-recommends {packages}"
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(reason)
    pytest.skip(reason)


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A server and the URL at which it answers."""

    url: str
    server: Server


@contextlib.contextmanager
def postgres(database: str = "prefect") -> Iterator[str]:
    """A PostgreSQL server with one empty database; its URL for SQLAlchemy with asyncpg."""
    with postgres_service(database) as service:
        yield service.url


@contextlib.contextmanager
def postgres_service(database: str = "prefect") -> Iterator[Service]:
    """The same, for a test that ends the server."""
    homes = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if not homes:
        _missing("PostgreSQL", "postgresql")
    home = max(homes, key=lambda path: float(path.parent.name))
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    environment = clean_environment(LC_ALL="C.UTF-8")
    port = free_ports()[0]
    with _folder("postgres") as folder, contextlib.ExitStack() as stack:
        as_user: dict[str, Any] = {"cwd": folder}
        if user:
            shutil.chown(folder, user, user)
            as_user.update(user=user, group=user, extra_groups=[])
        data = folder / "data"
        initdb = [home / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        _call([*initdb, "--no-sync"], 60, environment, **as_user)
        options = {
            "port": port,
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": folder,
            "fsync": "off",
            "full_page_writes": "off",
        }
        command: list[str | Path] = [home / "postgres", "-D", data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        server = _start("postgres", command, folder, environment, user=user, stop_signal=signal.SIGQUIT)
        stack.callback(server.stop)
        where: list[str | Path] = ["-h", LOOPBACK, "-p", str(port), "-U", "postgres"]

        def answers() -> bool:
            done = subprocess.run([home / "pg_isready", "-q", *where], env=environment, check=False)
            return done.returncode == 0

        _await(answers, server, 30)
        _call([home / "createdb", *where, database], 30, environment)
        yield Service(f"postgresql+asyncpg://postgres@{LOOPBACK}:{port}/{database}", server)


def dump_database(url: str) -> str:
    """Everything in a database of :func:`postgres`, as text."""
    home = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    plain = url.replace("postgresql+asyncpg", "postgresql")
    return _call([home / "pg_dump", "--inserts", plain], 60, clean_environment(LC_ALL="C.UTF-8"))


# ---- Prefect ---------------------------------------------------------------------------------------------------------


def prefect_environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a Prefect process with its own folder, without analytics."""
    return clean_environment(
        **{
            "PREFECT_HOME": str(home),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
    )


@contextlib.contextmanager
def prefect_server(database_url: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Prefect server on the given database; its API URL. `environment` adds settings or replaces them."""
    with prefect_service(database_url, environment) as service:
        yield service.url


@contextlib.contextmanager
def prefect_service(database_url: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """The same, for a test that ends the server."""
    port = free_ports()[0]
    url = f"http://{LOOPBACK}:{port}/api"
    with _folder("prefect-server") as folder, contextlib.ExitStack() as stack:
        settings = prefect_environment(
            folder / "home",
            **{
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
                "PREFECT_SERVER_API_HOST": LOOPBACK,
                "PREFECT_SERVER_API_PORT": str(port),
                "PREFECT_SERVER_UI_ENABLED": "false",
                "PREFECT_UI_URL": url.removesuffix("/api"),
                # Task runs are recorded in batches: one at a time the record lags minutes behind a large flow.
                "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
                "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
                "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
                "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
                **(environment or {}),
            },
        )
        server = _start("prefect-server", [sys.executable, "-m", "prefect", "server", "start"], folder, settings)
        stack.callback(server.stop)

        def healthy() -> bool:
            with contextlib.suppress(OSError, ValueError):
                return http_json(f"{url}/health") is True
            return False

        _await(healthy, server, 200, pause=0.2)
        yield Service(url, server)


@contextlib.contextmanager
def prefect_worker(
    api_url: str,
    pool: str,
    *,
    name: str | None = None,
    limit: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A process worker on a work pool, which it creates if need be; the running worker.

    `environment` adds settings for the worker and for the flow runs it starts. On leaving, the flow runs still going
    are killed with it; `kill()` ends all at once, as a lost machine would.
    """
    name = name or f"worker-{uuid.uuid4().hex[:8]}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool, "--name", name]
    if limit is not None:
        command += ["--limit", str(limit)]
    with _folder("prefect-worker") as folder, contextlib.ExitStack() as stack:
        settings = prefect_environment(
            folder / "home",
            **{
                "PREFECT_API_URL": api_url,
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
                **(environment or {}),
            },
        )
        worker = _start("prefect-worker", command, folder, settings, stop_signal=signal.SIGINT)
        stack.callback(worker.stop)

        def online() -> bool:
            with contextlib.suppress(OSError, ValueError):
                known = http_json(f"{api_url}/work_pools/{pool}/workers/filter", {})
                return any(entry["name"] == name and entry["status"] == "ONLINE" for entry in known)
            return False

        _await(online, worker, 120, pause=0.2)
        yield worker


# ---- S3 --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server answers and with which keys."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    servers: tuple[Server, ...] = field(default=(), repr=False)
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """The variables by which boto3 and s3fs find the server without an argument."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """A boto3 client, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session(self.access_key, self.secret_key, region_name=self.region).client(
            "s3", endpoint_url=self.endpoint_url, config=Config(retries={"max_attempts": 3}, proxies={})
        )

    def objects(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """Key below `prefix` to ETag."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"][len(prefix) :]: item["ETag"] for page in pages for item in page.get("Contents", ())}


def create_bucket(server: S3Server, name: str) -> str:
    """A new bucket; its URL. No LocationConstraint: the gateway refuses the name of the default region in one."""
    server.client().create_bucket(Bucket=name)
    return f"s3://{name}"


_CEPH = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon_port}
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = {low}
ms_bind_port_max = {high}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_supported = none
mon_data = {folder}/mon
mon_data_avail_crit = 1
mon_data_avail_warn = 2
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
# a change of the cluster's maps waits this long for others to join it: the default second is most of a small start
paxos_propose_interval = 0.05
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {store_bytes}
osd_crush_initial_weight = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
rgw_data = {folder}/rgw
run_dir = {folder}
log_file = {folder}/$type.$id.log
pid_file =
admin_socket =
[client.gateway]
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_thread_pool_size = 32
rgw_enable_apis = s3
"""


@contextlib.contextmanager
def s3_server(store_bytes: int = 4 << 30) -> Iterator[S3Server]:
    """An S3 store: a Ceph cluster of one monitor and one daemon that keeps objects in memory, and a RADOS Gateway."""
    programs = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        _missing(", ".join(absent), "radosgw ceph-mon ceph-osd")
    mon_port, port = free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    low = random.SystemRandom().randrange(15, 31) * 1000  # the daemon looks for free ports in its range by itself
    key, secret = uuid.uuid4().hex[:20].upper(), uuid.uuid4().hex
    with _folder("ceph") as folder, contextlib.ExitStack() as stack:
        configuration = folder / "ceph.conf"
        configuration.write_text(
            _CEPH.format(
                fsid=fsid,
                folder=folder,
                mon_port=mon_port,
                port=port,
                low=low,
                high=low + 999,
                store_bytes=store_bytes,
            )
        )
        for part in ("mon", "osd", "rgw"):
            (folder / part).mkdir()
        # A daemon that asks the monitor for settings forgets the cluster's fsid until it hears it again, and ends when
        # an order of its own in between is refused. The command line client always asks, and is tried again.
        environment = clean_environment(CEPH_CONF=str(configuration), CEPH_ARGS="--no-mon-config")
        servers: list[Server] = []

        def start(name: str, *command: str) -> Server:
            # nothing of the cluster outlives it, so nothing is gained by a slow orderly stop
            server = _start(name, command, folder, environment, stop_signal=signal.SIGKILL)
            stack.callback(server.stop)
            servers.append(server)
            return server

        def call(*command: str | Path, tries: int = 1) -> str:
            try:
                while True:
                    with contextlib.ExitStack() as may_fail:
                        if tries > 1:
                            may_fail.enter_context(contextlib.suppress(ServerError))
                        return _call(command, 30, environment, cwd=folder)
                    tries -= 1
                    time.sleep(0.2)
            except ServerError as error:
                logs = "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))
                raise ServerError(f"{error}\n{logs}") from error

        monmap = folder / "monmap"
        address = f"[v1:{LOOPBACK}:{mon_port}]"
        call("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, monmap)
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        mon = start("ceph-mon", "ceph-mon", "-i", "a", "-f")
        _await(lambda: _listens(mon_port), mon, 20)
        call("ceph", "osd", "new", osd, tries=10)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        store = start("ceph-osd", "ceph-osd", "-i", "0", "-f")
        # what is asked of the store before it is up is only asked again five seconds later
        stat = ("ceph", "osd", "stat", "--format", "json")
        _await(lambda: json.loads(call(*stat, tries=10))["num_up_osds"] == 1, store, 30)
        user = ("--uid=tests", "--display-name=tests", f"--access-key={key}", f"--secret-key={secret}")
        call("radosgw-admin", "user", "create", *user)
        gateway = start("radosgw", "radosgw", "-n", "client.gateway", "-f")
        endpoint = f"http://{LOOPBACK}:{port}"

        def answers() -> bool:
            try:
                http_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                http_opener.open(endpoint, timeout=2).close()
            except urllib.error.HTTPError as error:
                return error.code < 500
            except OSError:
                return False
            return True

        _await(answers, gateway, 30)
        yield S3Server(endpoint, key, secret, tuple(servers))
