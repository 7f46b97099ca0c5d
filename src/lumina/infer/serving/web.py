"""The server's HTTP: one thread for each connection."""

from __future__ import annotations

import hmac
import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from lumina.data.tokenizer import Tokenizer
from lumina.infer.serving.bodies import Asked, BadRequestError, read_body
from lumina.infer.serving.connections import (
    READING_SECONDS,
    Connections,
    PatientHandler,
)
from lumina.infer.serving.engine import Engine
from lumina.infer.serving.forms import Form, error_object
from lumina.infer.serving.request import RETRY_SECONDS, Problem, Request, Said

MOST_BYTES = 16 * 2**20
"""Of a body."""

LARGE_BYTES = 2**20
"""From which a body is large."""

LARGE_AT_ONCE = 4
"""Large bodies that are read at a time."""

LOOK_SECONDS = 0.5
"""How often the server looks whether a client that it answers is still there."""

BAD = "invalid_request_error"
"""What OpenAI's API calls a fault of the client."""

ANSWERED = ("/v1/completions", "/v1/chat/completions")

LOOPBACK = ("127.0.0.1", "localhost", "::1")

CONNECTIONS = 512
"""Most that may be open."""

_BUSY = {
    "ok": Problem(
        503, "as many requests wait as may; ask again later", retry=RETRY_SECONDS
    ),
    "ending": Problem(503, "the server ends", retry=RETRY_SECONDS),
    "broken": Problem(503, "the model has failed and answers nothing any more"),
}
"""By the state of the engine: why it takes no request."""


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


class Server(Connections):
    """Listens until `shutdown`.

    Args:
        address: host and port; port 0 takes a free one.
        served: what connections share.
        connections: that may be open.
    """

    def __init__(
        self, address: tuple[str, int], served: Served, connections: int = CONNECTIONS
    ) -> None:
        super().__init__(address, Handler, connections)
        self.served = served
        self._large = threading.BoundedSemaphore(LARGE_AT_ONCE)
        self._answering = 0
        self._answered = threading.Condition()
        self.local = address[0] in LOOPBACK

    @contextmanager
    def room_for(self, length: int) -> Iterator[bool]:
        """While a body is read; gives whether there is memory for it."""
        large = length >= LARGE_BYTES
        room = not large or self._large.acquire(blocking=False)
        try:
            yield room
        finally:
            if large and room:
                self._large.release()

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


class Handler(PatientHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "lumina"
    sys_version = ""

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
            self._health()
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
        if not self._may_send():
            return
        length = int(self.headers["Content-Length"])
        with self.server.room_for(length) as room:
            if not room:
                text = f"{LARGE_AT_ONCE} large bodies are being read; ask again later"
                self._refuse(Problem(503, text, retry=RETRY_SECONDS))
                return
            try:
                asked = self._asked(length)
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

    def _asked(self, length: int) -> Asked:
        """What a body asks for.

        Raises:
            BadRequestError: it cannot be answered.
        """
        served, chat = self.server.served, self._route == "/v1/chat/completions"
        limits = served.engine.limits
        body = self._body(length)
        asked = read_body(body, chat, served.tokenizer, served.model, limits.tokens)
        if (count := len(asked.requests)) > limits.waiting:
            text = f"{count} prompts at once are more than may wait, {limits.waiting:,}"
            raise BadRequestError(text)
        return asked

    def _health(self) -> None:
        """Whether requests are answered, and how many."""
        engine = self.server.served.engine
        status = engine.state
        counts = engine.counts | {"connections": self.server.connections}
        self._send(200 if status == "ok" else 503, {"status": status, **counts})

    def _answer(self, asked: Asked) -> None:
        served = self.server.served
        if not served.engine.submit(*asked.requests):
            self._refuse(_BUSY[served.engine.state])
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
        if self.server.over(self.connection):
            text = f"{self.server.most:,} connections are open; ask again later"
            self._refuse(Problem(503, text, retry=RETRY_SECONDS))
            return False
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

    def handle_expect_100(self) -> bool:
        """A client that asks before it sends a body is refused before it does."""
        return self._may_send() and super().handle_expect_100()

    def _may_send(self) -> bool:
        """Whether the body of a request is going to be read; refuses it otherwise."""
        self.unread = True
        if not self._allowed():
            return False
        if self._route not in ANSWERED:
            self._refuse(Problem(404, f"there is no {self._route}", BAD))
            return False
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        length = self.headers.get("Content-Length", "")
        if kind != "application/json":
            problem = Problem(415, "the content type is not application/json", BAD)
        elif "Transfer-Encoding" in self.headers:
            text = "a body in pieces is not read: send it whole, with Content-Length"
            problem = Problem(411, text, BAD)
        elif not length.isascii() or not length.isdigit():
            problem = Problem(411, "the length of the body is not said", BAD)
        elif len(length) > 18 or int(length) > MOST_BYTES:
            text = f"the body has more than {MOST_BYTES:,} bytes"
            problem = Problem(413, text, BAD)
        else:
            return True
        self._refuse(problem)
        return False

    def _body(self, length: int) -> Any:
        """What a body says.

        Raises:
            BadRequestError: it is no JSON, or not there in time.
        """
        try:
            return json.loads(self.body(length))
        except TimeoutError:
            late = f"the body was not there within {READING_SECONDS:.0f} seconds"
            raise BadRequestError(late, 408) from None
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
        self.end_headers_with(_events(form.begin()))
        for index, said in self._said(asked.requests):
            if said.problem is not None:
                self.wfile.write(_events([error_object(said.problem)]))
                return
            if written := _events(form.piece(index, said.text, said.reason)):
                self.wfile.write(written)
        self.wfile.write(_events(form.end()) + b"data: [DONE]\n\n")

    def _said(self, requests: list[Request]) -> Iterator[tuple[int, Said]]:
        """What is said to the requests, as it comes, until all have ended.

        Raises:
            ConnectionError: the client has gone.
        """
        left, looked, said_to_all = len(requests), time.monotonic(), requests[0].said
        while left:
            if time.monotonic() - looked >= LOOK_SECONDS:
                self.check_client()
                looked = time.monotonic()
            try:
                said = said_to_all.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            yield said.index, said
            left -= said.last

    def _refuse(self, problem: Problem) -> None:
        self.close_connection = True  # the body may not have been read
        self._send(problem.status, error_object(problem), problem.retry)
        self.linger()

    def _send(self, status: int, content: dict[str, Any], retry: int = 0) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if retry:
            self.send_header("Retry-After", str(retry))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        # The answer to HEAD has no body.
        self.end_headers_with(b"" if self.command == "HEAD" else body)


def _events(objects: list[dict[str, Any]]) -> bytes:
    """Server-sent events of these objects."""
    return "".join(f"data: {json.dumps(one)}\n\n" for one in objects).encode()
