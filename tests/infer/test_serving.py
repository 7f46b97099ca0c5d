"""The engine and its HTTP, in this process; the command is in tests/cli."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from infer.networks import MOE, tiny
from infer.test_kv_cache import KINDS
from lumina.errors import LuminaError
from lumina.infer.asking import chat, generate
from lumina.infer.decoding.seat_step import SeatStep
from lumina.infer.generate import Decoding
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.infer.serving import web
from lumina.infer.serving.bodies import read_body
from lumina.infer.serving.engine import Engine, Limits
from lumina.infer.serving.request import Problem, Request, Said
from lumina.infer.serving.web import Handler, Served, Server
from lumina.model.spec import ModSpec
from training import PATIENCE

PAGED = CacheSettings(paged=True, block=4)


@pytest.fixture(scope="module")
def network(tokenizer):
    network = tiny(tokenizer.vocab_size, moe=MOE, num_kv_heads=2, seq_length=128)
    network.tokenizer = tokenizer
    return network.eval()


def requests(tokenizer, count=9):
    """Prompts of many lengths, some alike at their beginning, greedy and drawn."""
    torch.manual_seed(count)
    size = tokenizer.vocab_size
    head = torch.randint(0, size, (9,)).tolist()
    found = []
    for number in range(count):
        tail = torch.randint(0, size, (1 + 3 * number % 11,)).tolist()
        prompt = [*head, *tail] if number % 3 else tail
        sampling = Sampling(temperature=number % 2, top_k=0, seed=number)
        found.append(Request(prompt, sampling, 4 + number, (), tokenizer))
    return found


def answered(request):
    """(text, reason) once it is over."""
    text = ""
    while True:
        said = request.said.get(timeout=PATIENCE)
        text += said.text
        if said.last:
            return text, said.reason


def until(condition):
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.covers("INF-06")
@pytest.mark.parametrize("cache_tokens", [0, 40])
def test_requests_side_by_side_answer_as_each_alone(network, tokenizer, cache_tokens):
    """Also where the cache has room for one row only, so that rows leave and return."""
    asked = requests(tokenizer)
    limits = Limits(rows=4, tokens=40, cache_tokens=cache_tokens)
    engine = Engine(network, limits, PAGED)
    returned = []
    put_back = engine.batch._put_back
    engine.batch._put_back = lambda one: (returned.append(one), put_back(one))
    assert all(engine.submit(one) for one in asked)
    ends = [answered(one) for one in asked]
    engine.close()
    assert bool(returned) == bool(cache_tokens)
    assert (
        engine.batch.seats.pool.in_use == 0
        and engine.batch.seats.pool.blocks <= engine.batch.seats.pool.limit
    )
    for request, (text, reason) in zip(asked, ends, strict=True):
        alone = Decoding(
            network, [request.prompt], request.sampling,
            max_new_tokens=request.max_new_tokens, stop_ids=tokenizer.stop_ids,
        )  # fmt: skip
        list(alone)
        assert request.new_ids == alone.new_ids[0]
        assert reason == alone.reasons[0]
        ids, cut_off = request.new_ids, reason != "stop"
        told = tokenizer.decode_after(request.prompt, ids, cut_off=cut_off)
        assert text == told


@pytest.mark.covers("INF-02: batch generation")
def test_more_texts_than_a_batch_has_make_room_for_each_other(network, monkeypatch):
    """The answers are those of all side by side, also without a cache in blocks."""
    texts = ["the quick", "a", "fox and the dog", "lazy", "the", "brown fox"]
    steps = []
    inner = SeatStep.run
    monkeypatch.setattr(
        SeatStep,
        "run",
        lambda self, turns: (steps.append(len(turns)), inner(self, turns)),
    )
    for model in (network, tiny(network.spec.vocab_size, mod=ModSpec(layers=(1,)))):
        model.tokenizer = network.tokenizer
        for how in ({"temperature": 0}, {"temperature": 1.0, "seed": 5}):
            together = generate(model, texts, max_new_tokens=9, stop="q", **how)
            assert not steps
            assert (
                generate(model, texts, max_new_tokens=9, stop="q", batch_size=2, **how)
                == together
            )
            assert max(steps) == 2
            steps.clear()
    too_long = [*texts, "dog " * 200]
    with pytest.raises(LuminaError, match="E005"):
        generate(network, too_long, batch_size=2)


def test_a_request_that_fails_leaves_the_others_alone(network, tokenizer, monkeypatch):
    good, bad, after = requests(tokenizer, 3)
    inner = network.logits

    def logits(ids, **options):
        if ids.shape[1] == len(bad.prompt):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(ids, **options)

    monkeypatch.setattr(network, "logits", logits)
    engine = Engine(network, Limits(rows=3, tokens=40), PAGED)
    assert all(map(engine.submit, (good, bad, after)))
    assert answered(good)[1] and answered(after)[1]
    problem = bad.said.get(timeout=PATIENCE).problem
    assert problem is not None and problem.status == 503 and "E201" in problem.text
    engine.close()
    assert engine.batch.seats.pool.in_use == 0
    assert not engine.submit(good)  # closed


def test_more_than_may_wait_and_models_without_blocks_are_refused(tokenizer, network):
    with pytest.raises(LuminaError, match="leave --kv-cache-tokens"):
        Engine(tiny(**KINDS["depths"]), Limits(cache_tokens=4096), PAGED)
    with pytest.raises(LuminaError, match="no room for one row"):
        Engine(network, Limits(tokens=40, cache_tokens=36), PAGED)
    engine = Engine(network, Limits(rows=1, tokens=40, waiting=2), PAGED)
    with engine._changed:  # nothing is taken up meanwhile
        taken = [engine.submit(one) for one in requests(tokenizer, 4)]
    assert taken == [True, True, False, False]
    engine.close()


@pytest.fixture(scope="module")
def server(network, tokenizer):
    engine = Engine(network, Limits(rows=4, tokens=100), PAGED)
    server = Server(("127.0.0.1", 0), Served(engine, tokenizer, "tiny"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    engine.close()
    server.finish(PATIENCE)
    server.server_close()


def ask(server, path, body=None, method="POST", **headers):
    """(status, JSON or text)."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.server_address[1], timeout=PATIENCE
    )
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    kind = answer.headers["Content-Type"]
    return answer.status, json.loads(text) if kind == "application/json" else text


def events(text):
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


@pytest.mark.covers("INF-06", "INF-12")
def test_completions_are_those_of_generate_whole_and_in_pieces(server, network):
    texts = ["the quick", "a dog"]
    body = {"prompt": texts, "max_tokens": 9, "temperature": 0, "model": "tiny"}
    full = [1] * 97  # which leaves room for 3 tokens of an answer
    _, uneven = ask(server, "/v1/completions", body | {"prompt": [full, texts[0]]})
    assert uneven["usage"]["completion_tokens"] == 3 + 9
    status, answer = ask(server, "/v1/completions", body)
    assert status == 200 and answer["object"] == "text_completion"
    wanted = generate(network, texts, max_new_tokens=9, temperature=0)
    assert uneven["choices"][1]["text"] == wanted[0]
    assert [choice["text"] for choice in answer["choices"]] == wanted
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 18
    usage = {"include_usage": True}
    status, text = ask(
        server, "/v1/completions", body | {"stream": True, "stream_options": usage}
    )
    pieces = events(text)
    assert pieces[-1]["usage"] == answer["usage"] and len(pieces) > 4
    for index, expected in enumerate(wanted):
        own = [p["choices"][0] for p in pieces[:-1]]
        own = [choice for choice in own if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == expected
        assert [choice["finish_reason"] for choice in own][-1] == "length"


class Written:
    """What a connection writes, one entry for each packet that is sent at once."""

    closed = False

    def __init__(self, file, entries):
        self.file, self.entries = file, entries

    def write(self, data):
        self.entries.append(bytes(data))
        self.file.write(data)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()
        self.closed = True


def test_no_part_of_an_answer_waits_for_the_client_to_confirm_another(
    server, monkeypatch
):
    """A small packet behind another one does, unless the socket is told otherwise."""
    sent, at_once, begin = [], [], Handler.setup

    def setup(handler):
        begin(handler)
        option = socket.IPPROTO_TCP, socket.TCP_NODELAY
        at_once.append(handler.connection.getsockopt(*option))
        handler.wfile = Written(handler.wfile, sent)

    monkeypatch.setattr(Handler, "setup", setup)
    body = {"prompt": "the quick", "max_tokens": 2, "temperature": 0}
    assert ask(server, "/v1/completions", body)[0] == 200
    [whole] = sent
    assert whole.startswith(b"HTTP/1.1 200") and whole.endswith(b"}")
    sent.clear()
    _, text = ask(server, "/v1/completions", body | {"stream": True})
    assert b"".join(sent).partition(b"\r\n\r\n")[2].decode() == text
    assert len(sent) <= 1 + 2 + 2  # headers, tokens, the rest, and the end
    assert len(at_once) == 2 and all(at_once)


def test_what_is_said_to_one_prompt_of_a_body_does_not_wait_for_another(
    tokenizer, monkeypatch
):
    monkeypatch.setattr(web, "LOOK_SECONDS", PATIENCE)
    body = {"prompt": ["the quick", "a dog"], "max_tokens": 1}
    asked = read_body(body, False, tokenizer, "tiny", 100)
    told = Handler._said(SimpleNamespace(), asked.requests)
    second, first = asked.requests[1], asked.requests[0]
    second.take(tokenizer.encode("b")[0])
    assert next(told) == (1, Said("b", index=1)) and second.ended
    assert next(told) == (1, Said("", "length", index=1))
    first.fail(Problem(500, "why"))
    assert next(told)[0] == 0
    assert next(told, None) is None


def test_conversations_seeds_ids_and_stops(server, network, tokenizer):
    turns = [{"role": "user", "content": "the dog?"}]
    body = {"messages": turns, "max_tokens": 8, "seed": 4, "temperature": 1.0}
    status, answer = ask(server, "/v1/chat/completions", body)
    wanted = chat(network, turns, max_new_tokens=8, seed=4, temperature=1.0)
    assert status == 200
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": wanted}
    _, text = ask(server, "/v1/chat/completions", body | {"stream": True})
    deltas = [piece["choices"][0]["delta"] for piece in events(text)]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == wanted

    ids = tokenizer.prompt("the quick")
    plain = {"prompt": ids, "max_tokens": 20, "temperature": 0, "presence_penalty": 0}
    _, whole = ask(server, "/v1/completions", plain)
    text = whole["choices"][0]["text"]
    _, cut = ask(server, "/v1/completions", plain | {"stop": text[3:5]})
    assert cut["choices"][0]["text"] == text[: text.index(text[3:5])]
    assert cut["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "JSON"),
        ([], 400, "object"),
        ({"prompt": ""}, 200, None),  # the begin token is a prompt
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [10**6]}, 400, "token ids"),
        ({"prompt": "x", "n": 2}, 400, "n is not supported"),
        ({"prompt": "x", "logprobs": 0}, 400, "logprobs"),
        ({"prompt": "x", "temprature": 1}, 400, "temprature"),
        ({"prompt": "x", "temperature": "hot"}, 400, "temperature"),
        ({"prompt": "x", "temperature": -1}, 400, "E005"),
        ({"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ({"prompt": "x", "stop": [1]}, 400, "stop"),
        ({"prompt": "x", "model": "other"}, 404, "other"),
        ({"prompt": "dog " * 200}, 400, "tokens"),
        ({"prompt": "\ud800"}, 400, "Unicode"),
        ({"messages": []}, 400, "messages"),
    ],
)
def test_bodies_that_cannot_be_answered_say_why(server, body, status, named):
    if isinstance(body, dict) and status == 200:
        body = body | {"max_tokens": 1}
    found, answer = ask(server, "/v1/completions", body)
    assert found == status
    assert named is None or named in answer["error"]["message"]


def test_other_sites_missing_keys_and_odd_requests_are_refused(server, tokenizer):
    assert ask(server, "/health", method="GET")[1]["status"] == "ok"
    models = ask(server, "/v1/models", method="GET")[1]["data"]
    assert [model["id"] for model in models] == ["tiny"]
    assert ask(server, "/v1/models", method="GET", Host="evil.example:80")[0] == 403
    body = {"prompt": "x", "max_tokens": 1}
    assert ask(server, "/v1/completions", body, Content_Type="text/plain")[0] == 415
    assert ask(server, "/v1/completions", body, Content_Length="99999999")[0] == 413
    assert ask(server, "/v1/engines", body)[0] == 404
    keyed = Server(
        ("127.0.0.1", 0), Served(server.served.engine, tokenizer, "tiny", "secret")
    )
    threading.Thread(target=keyed.serve_forever, daemon=True).start()
    assert ask(keyed, "/v1/completions", body)[0] == 401
    assert ask(keyed, "/v1/completions", body, Authorization="Bearer wrong")[0] == 401
    assert ask(keyed, "/v1/completions", body, Authorization="Bearer secret")[0] == 200
    keyed.finish(PATIENCE)
    keyed.server_close()


def raw(server, data):
    """The status line, the JSON and the headers of what a bare request is told."""
    with socket.create_connection(server.server_address[:2], PATIENCE) as connection:
        connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read()), answer.headers


def test_what_clients_of_other_servers_send_is_understood(server, network):
    """Parts of text, the developer's turns, and options that ask for nothing."""
    turns = [{"role": "system", "content": "be brief"}]
    turns += [{"role": "user", "content": "the dog?"}]
    wanted = chat(network, turns, max_new_tokens=5, temperature=0)
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "dog?"}]
    said = [{"role": "developer", "content": "be brief", "name": None}]
    said += [{"role": "user", "content": parts}]
    body = {"messages": said, "max_completion_tokens": 5, "temperature": 0}
    body |= {"tool_choice": "none", "parallel_tool_calls": True, "top_k": -1}
    body |= {"repetition_penalty": 1.0, "metadata": {}, "stop": None, "seed": None}
    status, answer = ask(server, "/v1/chat/completions?api-version=1", body)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == wanted
    image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    body = body | {"messages": [{"role": "user", "content": image}]}
    status, answer = ask(server, "/v1/chat/completions/", body)
    assert status == 400 and "image_url" in answer["error"]["message"]
    _, answer = ask(server, "/v1/completions", {"prompt": "x", "min_p": 0.1})
    assert "min_p is not supported" in answer["error"]["message"]


def test_every_error_is_an_object_with_its_code(server):
    models = ask(server, "/v1/models/tiny", method="GET")
    assert models[0] == 200 and models[1]["id"] == "tiny" and models[1]["created"] > 0
    long = {"prompt": [1] * 100}
    cases = [
        (ask(server, "/v1/models/other", method="GET"), 404, "model_not_found"),
        (ask(server, "/v1/completions", long), 400, "context_length_exceeded"),
        (ask(server, "/v1/completions", method="GET"), 405, None),
        (ask(server, "/nothing", method="GET"), 404, None),
        (ask(server, "/v1/models", method="DELETE"), 501, None),
        (raw(server, b"GET / HTTP/9.9\r\n\r\n"), 505, None),
        (raw(server, b"NONSENSE /\r\n x\r\n\r\n"), 400, None),
        (raw(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"), 414, None),
    ]
    for (status, answer, *_), expected, code in cases:
        assert status == expected and answer.keys() == {"error"}
        assert answer["error"]["message"] and answer["error"]["code"] == code
        kind = "server_error" if expected == 505 else "invalid_request_error"
        assert answer["error"]["type"] == kind


def test_a_busy_server_says_when_to_ask_again(network, tokenizer):
    engine = Engine(network, Limits(rows=1, tokens=40, waiting=1), PAGED)
    server = Server(("127.0.0.1", 0), Served(engine, tokenizer, "tiny"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    engine.close()
    status, _, headers = raw(server, head % len(body) + body)
    assert status == 503 and int(headers["Retry-After"]) > 0
    server.finish(PATIENCE)
    server.server_close()


def test_a_client_that_goes_frees_its_place(server, monkeypatch):
    engine = server.served.engine
    hold = threading.Event()
    inner = engine.batch._advance
    monkeypatch.setattr(
        engine.batch, "_advance", lambda rows: (hold.wait(PATIENCE), inner(rows))
    )
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    body = json.dumps({"prompt": "the", "max_tokens": 90, "temperature": 0})
    connection.request(
        "POST", "/v1/completions", body, {"Content-Type": "application/json"}
    )
    until(lambda: engine.counts["running"] == 1)
    [request] = engine.batch.running
    connection.close()
    until(request.gone.is_set)
    hold.set()
    until(lambda: engine.counts["running"] == 0 and engine.batch.seats.pool.in_use == 0)
    assert len(request.new_ids) < 80
