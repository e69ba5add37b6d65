"""An HTTP proxy in front of an S3 server that fails as networks and servers do.

Requests pass byte by byte, so that their signatures hold. A share of them is answered with an error, before or after
the server did its work; a share of the answers is cut in the middle, or stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

LOST_SHARE = 0.3
"""Of the errors, those that come although the server did what was asked."""

_ERRORS = (
    (500, "Internal Server Error", "InternalError"),
    (503, "Service Unavailable", "ServiceUnavailable"),
    (503, "Slow Down", "SlowDown"),
)


class Fault(StrEnum):
    """What the proxy does to a request."""

    ERROR = "error"
    """An error instead of the server's answer; the server never hears of the request."""
    LOST_ANSWER = "lost answer"
    """An error instead of the server's answer; the server did what was asked."""
    CUT = "cut"
    """The connection is reset in the middle of the answer."""
    STALL = "stall"
    """Nothing more comes from the middle of the answer on."""


@dataclass
class FaultProxy:
    """A running proxy.

    Attributes:
        endpoint_url: where it answers.
        counts: requests by what became of them: "requests" in all, and one figure per :class:`Fault`.
        next_faults: faults for the next requests, each with the method that it waits for; before those by chance.
    """

    endpoint_url: str
    upstream: tuple[str, int]
    shares: dict[Fault, float]
    stall_s: float
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    next_faults: deque[tuple[str, Fault]] = field(default_factory=deque)

    def fault_for(self, method: str) -> Fault | None:
        """The fate of a request."""
        self.counts["requests"] += 1
        chosen = self._choose(method)
        if chosen is not None:
            self.counts[chosen] += 1
        return chosen

    def _choose(self, method: str) -> Fault | None:
        if self.next_faults and self.next_faults[0][0] == method:
            return self.next_faults.popleft()[1]
        drawn = self.chance.random()
        for fault, share in self.shares.items():
            if drawn < share:
                return fault
            drawn -= share
        return None


@contextlib.contextmanager
def fault_proxy(
    endpoint: str,
    *,
    seed: int = 0,
    error_share: float = 0.05,
    cut_share: float = 0.02,
    stall_share: float = 0.01,
    stall_s: float = 30.0,
) -> Iterator[FaultProxy]:
    """A proxy on loopback in front of ``endpoint``, a plain HTTP URL."""
    address = urlsplit(endpoint)
    assert address.scheme == "http"
    assert address.hostname is not None
    shares = {
        Fault.ERROR: error_share * (1 - LOST_SHARE),
        Fault.LOST_ANSWER: error_share * LOST_SHARE,
        Fault.CUT: cut_share,
        Fault.STALL: stall_share,
    }
    proxy = FaultProxy("", (address.hostname, address.port or 80), shares, stall_s, random.Random(seed))
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def serve() -> None:
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await _serve_connection(proxy, reader, writer)
            finally:
                connections.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        proxy.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stopped.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="fault-proxy", daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
        loop.close()


async def _serve_connection(proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    try:
        while True:
            request = await _read_head(reader)
            method = request.first_line.split(" ", 1)[0]
            if request.fields.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request = request.without("expect")
            body = await _read_body(reader, request)
            fault = proxy.fault_for(method)
            if fault is Fault.ERROR:
                await _send_error(proxy, writer, method)
                continue
            if upstream is None:
                upstream = await asyncio.open_connection(*proxy.upstream)
            upstream[1].write(request.raw + body)
            await upstream[1].drain()
            answer = await _read_head(upstream[0])
            while answer.first_line.split(" ")[1].startswith("1"):
                answer = await _read_head(upstream[0])
            content = await _read_body(upstream[0], answer, is_answer=True, method=method)
            if fault is Fault.LOST_ANSWER:
                await _send_error(proxy, writer, method)
                continue
            if fault in (Fault.CUT, Fault.STALL):
                # Answers without a body are cut before they begin: a client must not take them for whole.
                writer.write(answer.raw + content[: len(content) // 2] if content else b"")
                await writer.drain()
                if fault is Fault.STALL:
                    await asyncio.sleep(proxy.stall_s)
                writer.transport.abort()
                return
            writer.write(answer.raw + content)
            await writer.drain()
            if answer.fields.get("connection", "").lower() == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        return
    finally:
        for end in (writer, upstream[1] if upstream else None):
            if end is not None:
                end.close()


async def _send_error(proxy: FaultProxy, writer: asyncio.StreamWriter, method: str) -> None:
    status, reason, code = proxy.chance.choice(_ERRORS)
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>Try again</Message></Error>'
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + ("" if method == "HEAD" else body)).encode())
    await writer.drain()


@dataclass(frozen=True)
class _Head:
    raw: bytes

    @property
    def first_line(self) -> str:
        return self.raw.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def fields(self) -> dict[str, str]:
        pairs = (line.partition(":") for line in self.raw.decode("latin-1").split("\r\n")[1:] if line)
        return {name.lower(): value.strip() for name, _, value in pairs}

    def without(self, name: str) -> _Head:
        lines = self.raw.split(b"\r\n")
        return _Head(b"\r\n".join(line for line in lines if not line.lower().startswith(name.encode() + b":")))


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    return _Head(await reader.readuntil(b"\r\n\r\n"))


async def _read_body(reader: asyncio.StreamReader, head: _Head, is_answer: bool = False, method: str = "") -> bytes:
    if is_answer and (method == "HEAD" or head.first_line.split(" ")[1] in ("204", "304")):
        return b""
    if head.fields.get("transfer-encoding", "").lower() == "chunked":
        chunks = []
        while True:
            size = await reader.readuntil(b"\r\n")
            chunks += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
            if int(size.split(b";")[0], 16) == 0:
                return b"".join(chunks)
    return await reader.readexactly(int(head.fields.get("content-length", 0)))
