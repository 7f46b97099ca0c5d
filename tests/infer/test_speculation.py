"""Guessed tokens are kept only as far as they are the answer anyway."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer.networks import prompts, tiny, write_run
from infer.test_decoding_step import ALL, DRAWN, GREEDY, RunsAhead, _network
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer import generate as module
from lumina.infer.decoding.drafts import LONGEST, draft
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import Decoding, new_cache
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.model.network import Network


def _looked_up(row: list[int], tokens: int) -> list[int] | None:
    """The guess, spelled out; None where nothing agrees."""
    for length in range(min(LONGEST, len(row) - 1), 0, -1):
        end = row[len(row) - length :]
        for begin in range(len(row) - length - 1, -1, -1):
            if row[begin : begin + length] == end:
                after = row[begin + length :]
                return [after[i % len(after)] for i in range(tokens)]
    return None


def test_a_guess_is_what_followed_the_latest_place_that_reads_alike() -> None:
    generator = torch.Generator().manual_seed(torch.initial_seed())
    found = 0
    for _ in range(200):
        count = int(torch.randint(1, 24, (1,), generator=generator))
        row = torch.randint(0, 4, (count,), generator=generator).tolist()
        rest = torch.randint(0, 4, (26 - count,), generator=generator).tolist()
        history = torch.tensor([row + rest, [1] * 26])
        got = draft(history, torch.tensor([count, 5]), 6)
        expected = _looked_up(row, 6)
        found += expected is not None
        assert expected is None or got[0].tolist() == expected
        assert got[1].tolist() == [1] * 6 and got.shape == (2, 6)
    assert found > 100


def _answers(
    network: Network,
    sampling: Sampling,
    guesses: int,
    stop: list[int] | None = None,
    workspace: Workspace | None = None,
) -> Decoding:
    repeated = [prompt * 3 for prompt in prompts(4)]
    decoding = Decoding(
        network,
        repeated,
        sampling,
        max_new_tokens=14,
        stop_ids=stop or [],
        stepping=StepSettings(speculate=guesses),
        workspace=workspace,
    )
    list(decoding)
    return decoding


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ALL)
def test_answers_are_those_without_guesses(name: str, sampling: Sampling) -> None:
    network = _network(name)
    free = _answers(network, sampling, 0)
    stops = [free.new_ids[0][4], free.new_ids[2][7]]
    plain = _answers(network, sampling, 0, stops)
    for guesses in (1, 4):
        guessed = _answers(network, sampling, guesses, stops)
        assert guessed.new_ids == plain.new_ids
        assert guessed.reasons == plain.reasons


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_guesses_that_are_read_late_change_nothing(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes in ({"seq_length": 60}, {"window_size": 6}):
        network = tiny(num_kv_heads=2, **changes)
        stop = [_answers(network, sampling, 0).new_ids[1][3]]
        plain = _answers(network, sampling, 0, stop)
        with monkeypatch.context() as patched:
            patched.setattr(module, "Runner", RunsAhead)
            workspace = Workspace()
            for _ in range(2):
                late = _answers(network, sampling, 5, stop, workspace)
                assert late.new_ids == plain.new_ids
                assert late.reasons == plain.reasons


def test_a_row_that_repeats_itself_takes_fewer_steps() -> None:
    network = tiny()
    with torch.no_grad():  # says the same token for ever
        network.objective.head.weight.zero_()
        network.objective.head.weight[7] = 1.0
        network.backbone.norm.weight.fill_(0.0)
    decoding = Decoding(
        network, [[7, 7, 3]], GREEDY, max_new_tokens=40,
        stepping=StepSettings(speculate=7),
    )  # fmt: skip
    steps = list(decoding)
    assert len(set(decoding.new_ids[0])) == 1 and len(decoding.new_ids[0]) == 40
    assert len(steps) <= 8


def test_shares_of_drawn_tokens_are_those_of_the_model() -> None:
    """Many answers of two tokens, guesses in all of them, against the probabilities."""
    network, prompt = tiny(8, init_std=0.4), [1, 2, 3, 1, 2]
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    decoding = Decoding(
        network, [prompt] * 4000, sampling, max_new_tokens=2,
        stepping=StepSettings(speculate=2),
    )  # fmt: skip
    list(decoding)
    pairs = torch.tensor(decoding.new_ids)
    shares = torch.bincount(pairs[:, 0] * 8 + pairs[:, 1], minlength=64) / 4000
    rows = torch.tensor([[*prompt, token] for token in range(8)])
    with torch.inference_mode():
        scores = network.logits(rows)
    first = scores[0, len(prompt) - 1].softmax(-1)
    both = first[:, None] * scores[:, -1].softmax(-1)
    error = (both * (1 - both) / 4000).sqrt().flatten()
    assert ((shares - both.flatten()).abs() < 5 * error + 1e-3).all()


def test_a_conversation_goes_on_behind_guesses() -> None:
    network, prompt = tiny(num_kv_heads=2), prompts(3)[2]
    cache = new_cache(network)
    stepping = StepSettings(speculate=4)
    first = Decoding(
        network, [prompt], GREEDY, max_new_tokens=9, cache=cache, stepping=stepping
    )
    list(first)
    first.settle()
    assert cache.length == len(prompt) + 8
    said = [*prompt, *first.new_ids[0]]
    assert cache.rewind(len(said) - 3)
    second = Decoding(
        network, [said[:-1]], GREEDY, max_new_tokens=9, cache=cache, stepping=stepping
    )
    list(second)
    plain = Decoding(network, [said[:-1]], GREEDY, max_new_tokens=9)
    list(plain)
    assert second.new_ids == plain.new_ids


@pytest.mark.parametrize(
    ("settings", "stepping", "says"),
    [
        (CacheSettings(paged=True), {"speculate": 2}, "takes tokens back"),
        (None, {"speculate": 99}, "from 0 .none. to 32"),
        (None, {"speculate": 2, "batch_invariant": True}, "another order"),
    ],
)
def test_what_guesses_do_not_go_with_is_refused(
    settings: CacheSettings | None, stepping: dict[str, int], says: str
) -> None:
    with pytest.raises(LuminaError, match=says):
        Decoding(
            tiny(), [[1]], GREEDY, settings=settings, stepping=StepSettings(**stepping)
        )


def test_the_option_saves_steps(
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = tiny(tokenizer.vocab_size, num_kv_heads=2)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    words = ["generate", run, "--device", "cpu", "--json", "--max-new-tokens", "30"]
    words += ["--temperature", "0", "--prompt", "the dog the dog the dog"]
    steps: list[int] = []
    begin = Decoding._begin_step
    monkeypatch.setattr(
        Decoding, "_begin_step", lambda self: (steps.append(1), begin(self))
    )
    said = []
    for more in ([], ["--speculate", "6"]):
        steps.clear()
        assert main([*words, *more]) == 0
        said.append((capsys.readouterr().out, len(steps)))
    assert said[0][0] == said[1][0]
    assert said[1][1] < said[0][1] == 30
