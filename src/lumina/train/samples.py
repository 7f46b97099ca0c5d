"""A few continuations by the trained model, for the report of its run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lumina.assemble.program import Program
from lumina.config import Config
from lumina.data.kind import Data
from lumina.data.tokenizer import Tokenizer
from lumina.heartbeat import beat
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import context_limit
from lumina.infer.sampling import Sampling, sampling_for
from lumina.infer.serving.many import answers_of, takes_many
from lumina.infer.text import Answers
from lumina.model.kinds.table import why_not
from lumina.model.network import Network
from lumina.state.left_behind import leave_samples
from lumina.state.run_directory import RunDirectory
from lumina.train.controls import Controls
from lumina.train.memory_ladder.beside_steps import unless_short
from lumina.train.recorder import Recorder
from lumina.train.text_monitor import TextMonitor

NEW_TOKENS = 32

AT_ONCE = 16
"""Continuations made side by side; one that ends makes room for the next."""


@dataclass(frozen=True)
class Samples:
    """Continuations that are kept while the run goes on.

    Attributes:
        directory: of the run, which keeps them in samples.jsonl.
        data: gives the texts that are continued.
        count: how many.
        every: steps between them; 0: none before the end.
        monitor: measures them; None: nothing does.
    """

    directory: RunDirectory
    data: Data
    count: int
    every: int
    monitor: TextMonitor | None = None

    @classmethod
    def of(
        cls,
        directory: RunDirectory,
        data: Data,
        config: Config,
        recorder: Recorder,
        controls: Controls,
    ) -> Samples:
        """Those of a run with these settings.

        Raises:
            LuminaError: as `TextMonitor.of`.
        """
        return cls(
            directory,
            data,
            config.run.report_samples,
            config.run.sample_every_n_batches,
            TextMonitor.of(config, directory, recorder, controls),
        )

    def due(self, step: int) -> bool:
        """Whether there are some after a step."""
        return bool(self.count and self.every and step % self.every == 0)

    def take(self, program: Program, step: int, recorder: Recorder) -> None:
        """Let the first rank's model write, and keep what it wrote."""
        beat("writing samples")
        if program.ranks.main:
            texts = texts_of(program, self.data, self.count, recorder, step)
            leave_samples(self.directory, step, texts)
            if self.monitor is not None:
                self.monitor.measure(step, texts, pause=step < program.plan.steps)

    def at_end(
        self, program: Program, step: int, recorder: Recorder
    ) -> list[tuple[str, str]]:
        """The last ones, which the report keeps."""
        texts = texts_of(program, self.data, self.count, recorder, step)
        if self.monitor is not None and program.ranks.main:
            self.monitor.measure(step, texts)
        return texts


def texts_of(
    program: Program, data: Data, count: int, recorder: Recorder, step: int
) -> list[tuple[str, str]]:
    """As `sample_texts`; none, and an event, where there is no room for them."""
    return unless_short(
        lambda: sample_texts(program, data, count),
        [],
        "continuations by the model are",
        recorder,
        step,
    )


def sample_texts(program: Program, data: Data, count: int) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs: held-out texts as the model would go on.

    The averaged weights speak, where there are any, and the same run always says the
    same. Blocks run as they are, since compiling them for one token would take longer
    than all the samples.

    Args:
        program: that has been trained.
        data: what it was trained on.
        count: how many; 0: none.

    Returns:
        Nothing where a model answers no text (puzzles), where several tasks share it,
        where each rank holds a part of the weights (of experts, too) or of their
        averages, or where no prompt fits.
    """
    spec = program.plan.spec
    tokenizer = data.tokenizer
    parted = program.sharded or program.mesh.expert.size > 1
    parted = parted or (program.divided and program.average is not None)
    if tokenizer is None or why_not(spec, "samples") or parted:
        return []
    limit = context_limit(program.network) or 2**62
    prompts = [ids for ids in data.prompts(count) if 0 < len(ids) < limit]
    if not prompts:
        return []
    training = program.network.training
    sampling = sampling_for(tokenizer.generation, seed=program.plan.seed)
    try:
        with program.evaluation(), torch.compiler.set_stance("force_eager"):
            program.network.eval()
            texts = _continuations(program.network, tokenizer, prompts, sampling)
    finally:
        program.network.train(training)
    return [
        (tokenizer.decode(tokenizer.without_begin(prompt)), text)
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _continuations(
    network: Network,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    sampling: Sampling,
) -> list[str]:
    """By the server's batch, whose rows come and go, where the model takes it."""
    rows, length = min(len(prompts), AT_ONCE), NEW_TOKENS
    if takes_many(network, prompts, StepSettings()):
        return answers_of(
            network, tokenizer, prompts, sampling, rows, max_new_tokens=length
        )
    answers = Answers(network, tokenizer, prompts, sampling, max_new_tokens=length)
    for _ in answers:
        pass
    return [answer.text for answer in answers.completions]
