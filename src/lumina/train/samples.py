"""A few continuations by the trained model, for the report of its run."""

from __future__ import annotations

import torch

from lumina.assemble.program import Program
from lumina.data.prepare import Prepared
from lumina.data.store import TokenStore
from lumina.infer.generate import context_limit
from lumina.infer.sampling import sampling_for
from lumina.infer.text import Answers
from lumina.train.rows import AnyPrepared

PROMPT_TOKENS = 16
"""Of a text; a conversation is given up to where the assistant begins to speak."""

NEW_TOKENS = 32


def sample_texts(
    program: Program, prepared: AnyPrepared, count: int
) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs: held-out texts as the model would go on.

    The averaged weights speak, where there are any, and the same run always says the
    same. Blocks run as they are, since compiling them for one token would take longer
    than all the samples.

    Args:
        program: that has been trained.
        prepared: its data.
        count: how many; 0: none.

    Returns:
        Nothing where a model answers no text (puzzles), where several tasks share it,
        where each rank holds a part of the weights, or where no prompt fits.
    """
    spec = program.plan.spec
    if not isinstance(prepared, Prepared) or spec.tasks is not None or program.sharded:
        return []
    store, tokenizer = prepared.eval or prepared.train, prepared.tokenizer
    limit = context_limit(program.network) or 2**62
    prompts = [
        ids
        for index in range(min(count, len(store)))
        if 0 < len(ids := _prompt(store, index)) < limit
    ]
    if not prompts:
        return []
    training = program.network.training
    sampling = sampling_for(tokenizer.generation, seed=program.plan.seed)
    try:
        with program.evaluation(), torch.compiler.set_stance("force_eager"):
            program.network.eval()
            answers = Answers(
                program.network,
                tokenizer,
                prompts,
                sampling,
                max_new_tokens=NEW_TOKENS,
            )
            for _ in answers:
                pass
    finally:
        program.network.train(training)
    return [
        (tokenizer.decode(tokenizer.without_begin(prompt)), answer.text)
        for prompt, answer in zip(prompts, answers.completions, strict=True)
    ]


def _prompt(store: TokenStore, index: int) -> list[int]:
    """The beginning of a document, up to where the model is to go on."""
    start, end = int(store.starts[index]), int(store.starts[index + 1])
    if store.mask is None:
        end = start + min(PROMPT_TOKENS, (end - start) // 2)
    else:
        positions = torch.arange(start, end).numpy()
        taught = store.bears_loss(positions).nonzero()[0]
        end = start + int(taught[0]) if len(taught) else start
    ids: list[int] = store.tokens[start:end].tolist()
    return ids
