"""Tokens a second and time to the first token of a running `lumina serve`.

    lumina serve RUN --port 8000 &
    python benchmarks/serving.py --clients 1 8 32 --out serving.json

Each client streams one answer after another; all prompts have a common beginning, as a
system prompt is one, and an end of their own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure every number of clients, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:8000")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--shared-words", type=int, default=256)
    parser.add_argument("--own-words", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for clients in args.clients:
        with ThreadPoolExecutor(clients) as pool:
            began = time.perf_counter()
            each = list(pool.map(lambda n: _client(args, n), range(clients)))
            seconds = time.perf_counter() - began
        answers = [answer for of_client in each for answer in of_client]
        tokens = sum(count for _, count in answers)
        rows.append(
            {
                "clients": clients,
                "answers": len(answers),
                "tokens_per_second": tokens / seconds,
                "median_first_seconds": statistics.median(s for s, _ in answers),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"kind": "serving", "rows": rows}, indent=1))


def _client(args: argparse.Namespace, number: int) -> list[tuple[float, int]]:
    """(seconds to the first piece, tokens) of each answer."""
    shared = " ".join(f"word{i}" for i in range(args.shared_words))
    found = []
    for turn in range(args.requests):
        own = " ".join(f"{number}.{turn}.{i}" for i in range(args.own_words))
        body = {
            "prompt": f"{shared} {own}",
            "max_tokens": args.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        found.append(_answer(args.address, body))
    return found


def _answer(address: str, body: dict[str, Any]) -> tuple[float, int]:
    connection = http.client.HTTPConnection(address)
    began, first, tokens = time.perf_counter(), 0.0, 0
    connection.request(
        "POST",
        "/v1/completions",
        json.dumps(body),
        {"Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {answer.read().decode()}")
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        first = first or time.perf_counter() - began
        piece = json.loads(line[6:])
        if "error" in piece:
            raise SystemExit(piece["error"]["message"])
        tokens = piece.get("usage", {}).get("completion_tokens", tokens)
    connection.close()
    return first, tokens


if __name__ == "__main__":
    main()
