"""Connections: how many there may be, how long they may take, and how they end.

One thread serves each. A client that sends slowly, or reads slowly, keeps its own
thread and its own place among the connections, and nothing else.
"""

from __future__ import annotations

import io
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

READING_SECONDS = 60.0
"""How long a client may take to send all of what it asks, and to take a piece of what
it is sent."""

IDLE_SECONDS = 120.0
"""How long a connection may be silent between two requests: longer than clients keep
theirs (Go's 90 seconds), or they would send into one that is being closed."""

LINGER_SECONDS = 2.0
"""How long what a refused client still sends is thrown away, so that it reads why."""

OVER = 16
"""Connections beyond those that may be open which are told so; more are just closed."""


class Connections(ThreadingHTTPServer):
    """Listens, with a bounded number of connections.

    Where one more comes than there may be, the one that has been silent for longest
    between two requests is closed for it; where all are at work, it is refused.

    Args:
        address: host and port; port 0 takes a free one.
        handler: of a connection.
        most: connections that may be open.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[PatientHandler], most: int
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)
        self.most = most
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._over: set[socket.socket] = set()
        self._idle: dict[socket.socket, None] = {}  # the longest silent first

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, or close it at once."""
        with self._lock:
            if len(self._open) >= self.most and self._idle:
                silent = next(iter(self._idle))
                del self._idle[silent]
                self._open.discard(silent)  # its thread ends by itself
                _shut(silent, socket.SHUT_RDWR)
            full = len(self._open) >= self.most + OVER
            if not full:
                if len(self._open) >= self.most:
                    self._over.add(request)
                self._open.add(request)
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """A connection has ended."""
        with self._lock:
            self._open.discard(request)
            self._over.discard(request)
            self._idle.pop(request, None)
        super().close_request(request)

    def over(self, connection: socket.socket) -> bool:
        """Whether a connection is one more than there may be."""
        return connection in self._over

    @contextmanager
    def idle(self, connection: socket.socket) -> Iterator[None]:
        """While a connection waits for its next request."""
        with self._lock:
            self._idle[connection] = None
        try:
            yield
        finally:
            with self._lock:
                self._idle.pop(connection, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no fault of the server."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class PatientHandler(BaseHTTPRequestHandler):
    """One connection: what a client sends has to be there in time.

    Attributes:
        unread: the body of a request that has not been read.
    """

    server: Connections
    timeout = READING_SECONDS
    # What is written goes at once. Else the second of two small writes would wait
    # until the client confirms the first one, which it delays by 40 ms.
    disable_nagle_algorithm = True
    unread = False

    def setup(self) -> None:
        """Read by a clock that runs over all that is sent of a request."""
        super().setup()
        self._timed = _Timed(self.connection)
        self.rfile.close()
        self._buffer = io.BufferedReader(self._timed)
        self.rfile = self._buffer

    def handle_one_request(self) -> None:
        """Wait for a request, and answer it."""
        self._timed.restart(IDLE_SECONDS)
        with self.server.idle(self.connection):
            try:
                there = self._buffer.peek(1)
            except OSError:
                there = b""
        if not there:
            self.close_connection = True
            return
        self._timed.restart()
        self.unread = False
        super().handle_one_request()

    def body(self, length: int) -> bytes:
        """The body of a request.

        Raises:
            TimeoutError: the client takes too long.
        """
        found = self.rfile.read(length)
        self.unread = False
        return found

    def end_headers_with(self, content: bytes) -> None:
        """Write what ends the headers together with what follows: one packet, not two.

        Args:
            content: of the answer, or its beginning.
        """
        connection, together = self.wfile, io.BytesIO()
        self.wfile = together
        try:
            self.end_headers()
        finally:
            self.wfile = connection
        self.wfile.write(together.getvalue() + content)

    def linger(self) -> None:
        """Let a client read why its body was not: closing at once would reset that."""
        if not self.unread:
            return
        _shut(self.connection, socket.SHUT_WR)
        ends = time.monotonic() + LINGER_SECONDS
        try:
            while (left := ends - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(2**16):
                    break
        except OSError:
            pass  # it has gone, or goes on sending

    def check_client(self) -> None:
        """Notice a client that has closed its end.

        Raises:
            ConnectionError: it has.
        """
        poll = select.poll()  # select() takes no descriptor above 1,023
        poll.register(self.connection, select.POLLIN)
        if poll.poll(0) and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the client has gone")


class _Timed(io.RawIOBase):
    """What a client sends, all of it within some seconds."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.restart()

    def restart(self, seconds: float = READING_SECONDS) -> None:
        """Begin to count."""
        self._ends = time.monotonic() + seconds

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some bytes, 0 at the end.

        Raises:
            TimeoutError: the client takes too long.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client takes too long")
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        self._connection.settimeout(READING_SECONDS)  # of what is sent then
        return count


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # the other end has closed it
        connection.shutdown(how)
