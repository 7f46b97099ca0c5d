"""What a server does for clients that are many, slow, large or gone."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import closing, contextmanager

import pytest

from infer.networks import tiny
from infer.test_serving import PAGED, raw, until
from lumina.errors import LuminaError
from lumina.infer.serving import bodies, connections, web
from lumina.infer.serving.batch import told
from lumina.infer.serving.engine import Engine, Limits
from lumina.infer.serving.request import Said
from lumina.infer.serving.web import Served, Server
from training import PATIENCE

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
HEAD += b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def network(tokenizer):
    network = tiny(tokenizer.vocab_size, num_layers=1, num_kv_heads=2, seq_length=128)
    network.tokenizer = tokenizer
    return network.eval()


@contextmanager
def serving(network, connections=8, **limits):
    """A server whose steps wait until `release` is set."""
    engine = Engine(network, Limits(**{"rows": 2, "tokens": 60} | limits), PAGED)
    release, inner = threading.Event(), engine.batch._advance
    engine.batch._advance = lambda turns: (release.wait(PATIENCE), inner(turns))
    served = Served(engine, network.tokenizer, "tiny")
    server = Server(("127.0.0.1", 0), served, connections)
    server.release = release
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        release.set()
        engine.close()
        server.finish(PATIENCE)
        server.server_close()


def body(**fields):
    said = {"prompt": "the", "max_tokens": 4, "temperature": 0} | fields
    return json.dumps(said).encode()


def begin(server, data=None, head=HEAD):
    """A connection that has sent a request, whose answer is not read."""
    data = body() if data is None else data
    connection = socket.create_connection(server.server_address[:2], PATIENCE)
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    return connection


def end(connection):
    """The status, the JSON and the headers of an answer."""
    with closing(connection):
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read()), answer.headers


def test_one_connection_too_many_is_told_so(network):
    with serving(network, connections=2) as server:
        engine = server.served.engine
        working = [begin(server), begin(server)]
        until(lambda: engine.counts["running"] + engine.counts["waiting"] == 2)
        status, answer, headers = end(begin(server))
        assert status == 503 and int(headers["Retry-After"]) > 0
        assert "2 connections are open" in answer["error"]["message"]
        server.release.set()
        assert [end(one)[0] for one in working] == [200, 200]
        until(lambda: server.connections == 0)
        assert end(begin(server))[0] == 200


def test_a_silent_connection_makes_room_for_a_new_one(network):
    with serving(network, connections=1) as server:
        silent = http.client.HTTPConnection(*server.server_address[:2], PATIENCE)
        silent.request("GET", "/health")
        answer = silent.getresponse()
        assert json.loads(answer.read())["connections"] == 1
        until(lambda: server._idle)
        server.release.set()
        assert end(begin(server))[0] == 200
        assert silent.sock.recv(1) == b""
        silent.close()


def test_what_waits_has_a_limit_and_what_is_gone_is_not_begun(network):
    with serving(network, rows=1, waiting=2) as server:
        engine = server.served.engine
        running = begin(server)
        until(lambda: engine.counts["running"] == 1)
        waiting, gone = begin(server), None
        until(lambda: engine.counts["waiting"] == 1)
        status, answer, headers = end(begin(server, body(prompt=["a", "b"])))
        assert status == 503 and int(headers["Retry-After"]) > 0
        assert "as many requests wait as may" in answer["error"]["message"]
        assert engine.counts["waiting"] == 1  # of those two, none
        status, answer, _ = end(begin(server, body(prompt=["a", "b", "c"])))
        assert status == 400 and "3 prompts at once" in answer["error"]["message"]
        gone = begin(server)
        until(lambda: engine.counts["waiting"] == 2)
        request = engine.batch.waiting[-1]
        gone.close()
        until(request.gone.is_set)
        server.release.set()
        assert end(running)[0] == end(waiting)[0] == 200
        until(lambda: engine.counts["running"] == engine.counts["waiting"] == 0)
        assert not request.new_ids and not request.ended


def test_a_client_that_goes_is_noticed_while_tokens_come(network):
    """Of an answer that is sent as a whole, nothing is written until its end."""
    with serving(network) as server:
        engine = server.served.engine
        connection = begin(server, body(max_tokens=50))
        until(lambda: engine.counts["running"] == 1)
        [request] = engine.batch.running
        stop = threading.Event()

        def speak():
            while not stop.wait(0.001):
                request.said.put(Said("x"))

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        connection.close()
        until(request.gone.is_set)
        stop.set()
        speaker.join()
        server.release.set()
        until(lambda: engine.counts["running"] == 0)
        assert len(request.new_ids) < 50


def test_slow_clients_keep_nobody_waiting(network):
    """One sends half of its head, one half of its body, one reads nothing."""
    with serving(network) as server:
        address = server.server_address[:2]
        slow = [socket.create_connection(address, PATIENCE) for _ in range(2)]
        slow[0].sendall(HEAD)
        slow[1].sendall(HEAD + b"Content-Length: 90\r\n\r\n{")
        slow.append(begin(server, body(stream=True)))
        until(lambda: server.connections == 3)  # none of which goes by itself
        server.release.set()
        assert end(begin(server))[0] == 200
        for one in slow:
            one.close()


def test_a_body_that_is_not_there_in_time_is_told_so(network, monkeypatch):
    read = connections.PatientHandler.body

    def late(self, length):
        self._timed._ends = 0.0
        return read(self, length)

    monkeypatch.setattr(connections.PatientHandler, "body", late)
    with serving(network) as server:
        head = HEAD + b"Content-Length: 90000\r\n\r\n{"
        status, answer, _ = raw(server, head)
        assert status == 408 and "60 seconds" in answer["error"]["message"]


def test_time_runs_over_all_that_is_sent_of_a_request(monkeypatch):
    """A byte now and then does not begin it anew."""
    now = [0.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    here, there = socket.socketpair()
    with here, there:
        timed = connections._Timed(here)
        for _ in range(2):
            there.sendall(b"x")
            assert timed.readinto(bytearray(1)) == 1
            now[0] += 29
        there.sendall(b"x")
        assert timed.readinto(bytearray(1)) == 1
        now[0] += 3
        there.sendall(b"x")
        with pytest.raises(TimeoutError):
            timed.readinto(bytearray(1))


def test_a_body_that_is_too_large_is_refused_before_it_is_read(network, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", PATIENCE)
    read = []
    monkeypatch.setattr(web.Handler, "body", lambda self, length: read.append(length))
    with serving(network) as server:
        asks = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        status, answer, _ = raw(server, HEAD + asks % 10**12)
        assert status == 413 and "bytes" in answer["error"]["message"]
        # One that does not ask sends on, and still reads why.
        length = web.MOST_BYTES + 1
        data = b"Content-Length: %d\r\n\r\n" % length + b"x" * 2**21
        with socket.create_connection(server.server_address[:2], PATIENCE) as one:
            one.sendall(HEAD + data)
            one.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(one)
            answer.begin()
            assert answer.status == 413 and b"bytes" in answer.read()
        pieces = b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"
        assert raw(server, HEAD + pieces)[0] == 411
        assert not read


def test_few_large_bodies_are_read_at_a_time(network, monkeypatch):
    monkeypatch.setattr(web, "LARGE_BYTES", 100)
    with serving(network) as server:
        server.release.set()
        large = body(user="x" * 200)
        for _ in range(web.LARGE_AT_ONCE):
            assert server._large.acquire(blocking=False)
        status, answer, headers = end(begin(server, large))
        assert status == 503 and headers["Retry-After"]
        assert "large bodies" in answer["error"]["message"]
        assert end(begin(server))[0] == 200
        server._large.release()
        for _ in range(2):
            assert end(begin(server, large))[0] == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_has_failed_says_so(network):
    """Rather than to keep clients waiting, and to look healthy."""
    with serving(network) as server:
        engine = server.served.engine

        def broken():
            raise RuntimeError("a fault of the server's own")

        engine.batch.round = broken
        status, answer, _ = end(begin(server))
        assert status == 500 and "a fault of" in answer["error"]["message"]
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        until(lambda: engine.state == "broken")
        status, answer, _ = raw(server, health)
        assert status == 503 and answer["status"] == "broken"
        status, answer, headers = end(begin(server))
        assert status == 503 and "has failed" in answer["error"]["message"]
        assert "Retry-After" not in headers


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "text": "a fox"},
        {"type": "text"},
        {"type": "text", "text": 3},
        "a fox",
    ],
)
def test_a_part_that_is_no_text_is_refused_and_not_read(part):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "fox"}]
    assert bodies._message({"role": "user", "content": parts})["content"] == "a fox"
    with pytest.raises(bodies.BadRequestError, match="only text is read"):
        bodies._message({"role": "user", "content": [*parts, part]})


def test_a_failure_is_told_with_the_status_that_clients_know():
    found = told(LuminaError("E301", "no numbers", "lower the rate"))
    assert (found.status, found.text, found.retry) == (500, "E301: no numbers", 0)
    assert told(ValueError("odd")).status == 500
    short = told(MemoryError())
    assert short.status == 503 and short.text.startswith("E202") and short.retry > 0
