"""What a process makes of its device: memory and utilisation, in words for a log."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from pynvml import NVMLError

_GIB: Final = 1 << 30


def describe_device(device: torch.device) -> str:
    """Which device it is: ``cuda:0 NVIDIA H100, 79.1 GiB`` or ``cpu x86_64, 2 threads on 2 cores``."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} {properties.name}, {properties.total_memory / _GIB:.1f} GiB"
    return f"{device} {platform.machine()}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


class DeviceUse:
    """Memory and utilisation of this process's device.

    Of a GPU the memory is what torch has allocated, and the utilisation the driver's, of the last second. Of a CPU they
    are the process's resident memory and the cores that it kept busy since the last look.

    Args:
        device: of the prior.
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._since_line, self._since_sample = _Cores(clock), _Cores(clock)
        self._samples = 0
        self._sum = self._most = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> None:
        """Note the utilisation for :meth:`summary`; for moments at which the device has just worked."""
        used = self._utilisation(self._since_sample)
        if used is not None:
            self._samples += 1
            self._sum += used
            self._most = max(self._most, used)

    def line(self) -> str:
        """Both as they are, in words: ``memory 3.10 GiB (peak 3.40 of 79.1), utilisation 93 %``."""
        used = self._utilisation(self._since_line)
        return f"{self._memory()}, {'utilisation unknown' if used is None else self._in_words(used)}"

    def summary(self) -> str:
        """Both as they were, in words: ``memory ..., utilisation 93 % on average, 99 % at most``."""
        if not self._samples:
            return self.line()
        return f"{self._memory()}, {self._in_words(self._sum / self._samples, self._most)}"

    def _memory(self) -> str:
        if self._device.type == "cuda":
            return _gpu_memory(self._device)
        return f"memory {_resident() / _GIB:.2f} GiB (peak {_peak() / _GIB:.2f})"

    def _utilisation(self, cores: _Cores) -> float | None:
        return _gpu_utilisation(self._device) if self._device.type == "cuda" else cores.busy()

    def _in_words(self, used: float, most: float | None = None) -> str:
        if self._device.type == "cuda":
            return f"utilisation {used:.0f} %" + ("" if most is None else f" on average, {most:.0f} % at most")
        return f"{used:.1f} cores busy" + ("" if most is None else f" on average, {most:.1f} at most")


class _Cores:
    """Cores that this process keeps busy, from one look to the next."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked_at, self._busy_s = clock(), _cpu_seconds()

    def busy(self) -> float | None:
        """Since the last look, on average; None when no time has passed."""
        now, busy_s = self._clock(), _cpu_seconds()
        if now <= self._looked_at:
            return None
        cores = (busy_s - self._busy_s) / (now - self._looked_at)
        self._looked_at, self._busy_s = now, busy_s
        return cores


def _gpu_memory(device: torch.device) -> str:
    total = torch.cuda.get_device_properties(device).total_memory
    used, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return f"memory {used / _GIB:.2f} GiB (peak {peak / _GIB:.2f} of {total / _GIB:.1f})"


def _gpu_utilisation(device: torch.device) -> float | None:
    """Per cent of the last second; None where the driver does not say."""
    try:
        return float(torch.cuda.utilization(device))
    except (NVMLError, ModuleNotFoundError, RuntimeError):
        # A card in slices, another maker's, a driver without the counter: a log line is no reason to stop.
        return None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    """Most resident bytes so far; the kernel counts them in KiB, that of macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _resident() -> int:
    """Resident bytes now; the peak where the kernel does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else _peak()
