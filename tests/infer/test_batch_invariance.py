"""With `--batch-invariant` a row gives what it gives alone, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from infer.networks import prompts, tiny, write_run
from infer.test_decoding_step import ALL, _network
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.decoding import step as module
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import Decoding
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.model.network import Network

DRAWN = Sampling(temperature=1.0, top_k=0, top_p=0.95, seed=11)
ALONE = StepSettings(batch_invariant=True)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The logits from which every token was chosen, in order."""
    logits: list[torch.Tensor] = []
    pick = module.pick

    def noted(logits_bv: torch.Tensor, *others: object) -> torch.Tensor:
        logits.extend(row.clone() for row in logits_bv)
        return pick(logits_bv, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "pick", noted)
    yield logits


def _answers(
    network: Network,
    rows: list[list[int]],
    stepping: StepSettings,
    workspace: Workspace | None = None,
) -> list[list[int]]:
    decoding = Decoding(
        network,
        rows,
        DRAWN,
        max_new_tokens=9,
        stepping=stepping,
        workspace=workspace,
    )
    list(decoding)
    return decoding.new_ids


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_a_row_alone_to_the_last_bit(
    name: str, seen: list[torch.Tensor]
) -> None:
    network, rows = _network(name), prompts(5)
    together = _answers(network, rows, ALONE)
    beside = list(seen)
    for number, prompt in enumerate(rows):
        seen.clear()
        assert _answers(network, [prompt], ALONE) == [together[number]]
        for step, logits in enumerate(seen):
            assert torch.equal(logits, beside[step * len(rows) + number])
    assert len(seen) == 9


def test_answers_are_those_of_rows_side_by_side() -> None:
    for name in ("grouped", "experts and window", "depth", "reasoner"):
        network = _network(name)
        rows = prompts(5)
        assert _answers(network, rows, ALONE) == _answers(network, rows, StepSettings())


def test_a_workspace_serves_rows_that_are_apart() -> None:
    network, workspace = _network("window and sinks"), Workspace()
    for rows in (prompts(4), prompts(5)[1:]):
        expected = _answers(network, rows, ALONE)
        assert _answers(network, rows, ALONE, workspace) == expected
    padded = _answers(network, prompts(4), StepSettings(), workspace)
    assert padded == _answers(network, prompts(4), ALONE)


@pytest.mark.parametrize(
    "settings", [CacheSettings(paged=True, block=4), CacheSettings("int8")]
)
def test_caches_in_blocks_are_refused_and_formats_are_not(
    settings: CacheSettings,
) -> None:
    def begun() -> Decoding:
        return Decoding(tiny(), prompts(2), DRAWN, settings=settings, stepping=ALONE)

    if not settings.paged:
        assert len(begun().step()) == 2
        return
    with pytest.raises(LuminaError, match="leave --kv-cache-paged"):
        begun()


def test_the_option_reads_prompts_one_by_one(
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    seen: list[torch.Tensor],
) -> None:
    network = tiny(tokenizer.vocab_size, num_kv_heads=2)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    texts = tmp_path / "texts.txt"
    texts.write_text("the quick\nfox\n")
    words = ["generate", run, "--device", "cpu", "--json", "--max-new-tokens", "4"]
    words += ["--temperature", "0", "--batch-invariant"]
    assert main([*words, "--prompts-file", str(texts)]) == 0
    together = capsys.readouterr().out.splitlines()
    beside = list(seen)
    for number, text in enumerate(("the quick", "fox")):
        seen.clear()
        assert main([*words, "--prompt", text]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(together[number])
        for step, logits in enumerate(seen):
            assert torch.equal(logits, beside[2 * step + number])
