"""The server's HTTP: one thread for each connection."""

from __future__ import annotations

import hmac
import json
import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from lumina.data.tokenizer import Tokenizer
from lumina.infer.serving.bodies import Asked, BadRequestError, read_body
from lumina.infer.serving.engine import Engine
from lumina.infer.serving.forms import Form, error_object
from lumina.infer.serving.request import RETRY_SECONDS, Problem, Request, Said

MOST_BYTES = 16 * 2**20
"""Of a body."""

READING_SECONDS = 60.0
"""How long a client may take to send what it asks."""

LOOK_SECONDS = 0.5
"""How often a wait for the next token looks whether the client is still there."""

BAD = "invalid_request_error"
"""What OpenAI's API calls a fault of the client."""

ANSWERED = ("/v1/completions", "/v1/chat/completions")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Served:
    """What connections share.

    Attributes:
        engine: what answers.
        tokenizer: the model's.
        model: the name that clients see.
        key: what a client must send as its bearer token; "": nothing.
        began: when it began to serve, in seconds since 1970.
    """

    engine: Engine
    tokenizer: Tokenizer
    model: str
    key: str = ""
    began: int = field(default_factory=lambda: int(time.time()))


class Server(ThreadingHTTPServer):
    """Listens until `shutdown`.

    Args:
        address: host and port; port 0 takes a free one.
        served: what connections share.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], served: Served) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)
        self.served = served
        self._answering = 0
        self._answered = threading.Condition()
        self.local = address[0] in LOOPBACK

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is under way."""
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait so long at most until every answer has been sent, and stop listening."""
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, seconds)
        self.shutdown()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "lumina"
    sys_version = ""
    timeout = READING_SECONDS

    def do_GET(self) -> None:
        """The model's name, and how busy the server is."""
        if not self._allowed():
            return
        served, route = self.server.served, self._route
        model = {
            "id": served.model,
            "object": "model",
            "created": served.began,
            "owned_by": "lumina",
            "max_model_len": served.engine.limits.tokens,
        }
        if route == "/health":
            self._send(200, {"status": "ok", **served.engine.counts})
        elif route == "/v1/models":
            self._send(200, {"object": "list", "data": [model]})
        elif route == f"/v1/models/{served.model}":
            self._send(200, model)
        elif route.startswith("/v1/models/"):
            name = route.removeprefix("/v1/models/")
            text = f"there is no model {name!r}, only {served.model!r}"
            self._refuse(Problem(404, text, BAD, "model_not_found"))
        elif route in ANSWERED:
            self._refuse(Problem(405, f"{route} is asked with POST", BAD))
        else:
            self._refuse(Problem(404, f"there is no {route}", BAD))

    def do_POST(self) -> None:
        """A text to continue, or a conversation to answer."""
        if not self._allowed():
            return
        if self._route not in ANSWERED:
            self._refuse(Problem(404, f"there is no {self._route}", BAD))
            return
        chat = self._route == "/v1/chat/completions"
        served = self.server.served
        try:
            asked = read_body(
                self._body(),
                chat,
                served.tokenizer,
                served.model,
                served.engine.limits.tokens,
            )
        except BadRequestError as bad:
            self._refuse(bad.problem)
            return
        try:
            with self.server.answering():
                self._answer(asked)
        except OSError:
            self.close_connection = True  # the client has gone
        finally:
            for request in asked.requests:
                request.gone.set()

    def _answer(self, asked: Asked) -> None:
        served = self.server.served
        if not all(served.engine.submit(one) for one in asked.requests):
            text = "too many requests wait, or the server ends; ask again later"
            self._refuse(Problem(503, text, retry=RETRY_SECONDS))
            return
        form = Form(served.model, asked)
        (self._stream if asked.stream else self._whole)(asked, form)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """What the HTTP itself refuses, in the form of all other errors."""
        self.close_connection = True
        self.request_version = self.protocol_version  # or no status would be sent
        kind = BAD if code < 500 or code == 501 else "server_error"
        said = message or HTTPStatus(code).phrase
        self._send(int(code), error_object(Problem(int(code), said, kind)))

    @property
    def _route(self) -> str:
        """The path that is asked for, without a query or a slash at its end."""
        path = unquote(self.path.partition("?")[0])
        return path.rstrip("/") or "/"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: texts of clients belong in no log."""

    def _allowed(self) -> bool:
        """Whether the client may ask.

        A page of another site that a browser shows can reach a server on the same
        machine under a name of its own; so only the machine's own names are answered.
        """
        served = self.server.served
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") else host
        if self.server.local and (name or host).strip("[]") not in LOOPBACK:
            self._refuse(Problem(403, f"the host {host!r} is not this machine", BAD))
            return False
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if served.key and not hmac.compare_digest(sent.encode(), served.key.encode()):
            text = "the API key is missing or wrong"
            self._refuse(Problem(401, text, BAD, "invalid_api_key"))
            return False
        return True

    def _body(self) -> Any:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequestError("the content type is not application/json", 415)
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise BadRequestError("the length of the body is not said", 411)
        if int(length) > MOST_BYTES:
            raise BadRequestError(f"the body has more than {MOST_BYTES:,} bytes", 413)
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the body is not JSON: {error}") from None

    def _whole(self, asked: Asked, form: Form) -> None:
        """All answers at once."""
        texts, reasons = [""] * len(asked.requests), [""] * len(asked.requests)
        for index, said in self._said(asked.requests):
            if said.problem is not None:
                self._refuse(said.problem)
                return
            texts[index] += said.text
            reasons[index] = said.reason
        self._send(200, form.whole(texts, reasons))

    def _stream(self, asked: Asked, form: Form) -> None:
        """Answers piece by piece, as server-sent events."""
        self.close_connection = True  # which ends the stream
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self._events(form.begin())
        for index, said in self._said(asked.requests):
            if said.problem is not None:
                self._events([error_object(said.problem)])
                return
            self._events(form.piece(index, said.text, said.reason))
        self._events(form.end())
        self.wfile.write(b"data: [DONE]\n\n")

    def _events(self, objects: list[dict[str, Any]]) -> None:
        for one in objects:
            self.wfile.write(f"data: {json.dumps(one)}\n\n".encode())

    def _said(self, requests: list[Request]) -> Iterator[tuple[int, Said]]:
        """What is said to each request, in turn, until all have ended.

        Raises:
            ConnectionError: the client has gone.
        """
        left = list(range(len(requests)))
        while left:
            for index in list(left):
                try:
                    # With several requests, none waits while another has something.
                    wait = LOOK_SECONDS if len(left) == 1 else LOOK_SECONDS / 20
                    said = requests[index].said.get(timeout=wait)
                except queue.Empty:
                    self._check_client()
                    continue
                yield index, said
                if said.last:
                    left.remove(index)

    def _check_client(self) -> None:
        """Notice a client that has closed its end."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the client has gone")

    def _refuse(self, problem: Problem) -> None:
        self.close_connection = True  # the body may not have been read
        self._send(problem.status, error_object(problem), problem.retry)

    def _send(self, status: int, content: dict[str, Any], retry: int = 0) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if retry:
            self.send_header("Retry-After", str(retry))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":  # which has no body in its answer
            self.wfile.write(body)
