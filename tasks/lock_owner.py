"""Who holds a lock: a process, described so that another one can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""Of the machine itself; the number is fixed in Linux. Every container has another."""

_GONE: Final = -1
_UNKNOWN: Final = -2


@dataclass(frozen=True)
class LockOwner:
    """A process, as far as another one can tell whether it still lives.

    Attributes:
        id: random, different for each time that a lock is taken.
        host: the machine's name.
        machine_id: of the machine's installation; "" where the system tells none.
        pid: the process.
        boot_id: of the machine's kernel since it started; "" where the system tells none.
        pid_namespace: in which ``pid`` is a number; containers have their own. "" where the system tells none.
        process_started: clock ticks after the boot; tells the process from a later one with its number.
    """

    id: str
    host: str
    machine_id: str
    pid: int
    boot_id: str
    pid_namespace: str
    process_started: int


def this_process() -> LockOwner:
    """The owner of a lock that is taken now."""
    pid = os.getpid()
    return LockOwner(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine_id=_told_by("/etc/machine-id"),
        pid=pid,
        boot_id=_told_by("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_pid_namespace(),
        process_started=_process_started(pid),
    )


def is_dead(owner: LockOwner) -> bool:
    """Whether the owner certainly lives no more; only a process of this machine can be known to be dead."""
    here = this_process()
    if not owner.boot_id or not here.pid_namespace or owner.pid_namespace != here.pid_namespace:
        return False
    if owner.boot_id != here.boot_id:
        # The names of containers are not those of machines: two that run may share one, and the image's machine-id.
        is_this_machine = (owner.host, owner.machine_id) == (here.host, here.machine_id) and bool(here.machine_id)
        return is_this_machine and bool(here.boot_id) and here.pid_namespace == _FIRST_PID_NAMESPACE
    started = _process_started(owner.pid)
    if _UNKNOWN in (started, owner.process_started):
        return False
    return started != owner.process_started


def _process_started(pid: int) -> int:
    """Clock ticks from the boot to the start of the process; ``_GONE`` when it does not run, ``_UNKNOWN`` if hidden."""
    try:
        # Behind the name, which stands in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _GONE if fields[0] in ("Z", "X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return _GONE
        except PermissionError:
            return _UNKNOWN
        return _UNKNOWN
    except PermissionError:
        return _UNKNOWN


def _told_by(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
