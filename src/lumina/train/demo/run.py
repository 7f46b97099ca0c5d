"""The demonstration from top to bottom: text, training, questions, verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lumina.config import Config, ConfigPresets
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.chat import ChatSession
from lumina.infer.load import load
from lumina.infer.sampling import Sampling
from lumina.infer.text import complete
from lumina.observe.report import write_report
from lumina.train.demo import conversations, corpus
from lumina.train.demo.pace import TRIAL_STEPS, Budget, Pace, Watch, measure_pace
from lumina.train.demo.scores import Scores, score
from lumina.train.trainer import Trainer, TrainResult

VOCABULARY = 2048
# Shares of the time left when each begins; the rest is for loading and measuring.
PRETRAIN_SHARE = 0.6
FINE_TUNE_SHARE = 0.75
# Beyond these the texts have been seen often enough (about five and eight times).
MOST_PRETRAIN_STEPS, MOST_FINE_TUNE_STEPS = 4000, 500
# The answers are learned by heart: many small steps do that faster than few large ones.
FINE_TUNE_BATCH = 8
RECIPE = ("learning_rate", "lr_scheduler", "warmup_ratio", "global_batch_size",
          "seq_length")  # fmt: skip
EVALUATIONS = 5
STOPPED = 143  # the exit code of a run that `Trainer.stop` ended
FAVOURITES = ("shutil.copytree", "shutil.copy", "textwrap.dedent", "json.dump")
PROMPT = "def read_file(path):\n"


@dataclass(frozen=True)
class DemoOptions:
    """What is asked of the demonstration.

    Attributes:
        folder: where everything goes; must not exist.
        minutes: wall-clock time to plan for.
        quick: a small part of the corpus and few steps: shows that every part works,
            not that anything is learned, so the verdict does not count.
    """

    folder: Path
    minutes: float = 5.0
    quick: bool = False


@dataclass(frozen=True)
class Files:
    """Where the demonstration's data lies."""

    library: Path
    held_out: Path
    questions: Path
    questions_held_out: Path


class Demo:
    """One run of the demonstration; `run` is the order of things.

    Args:
        options: what is asked.
        say: prints a line.
    """

    def __init__(self, options: DemoOptions, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self.folder = options.folder
        self.budget = Budget(60 * options.minutes)

    def run(self) -> int:
        """The exit code: 0, 1 when the model does not beat the bigram, 130 or 143.

        Raises:
            LuminaError: E002 when the folder exists, E105 when Python has no sources.
        """
        if self.folder.exists():
            raise LuminaError(
                "E002", f"there is a {self.folder} already", "name another --dir"
            )
        self._collect()
        tokenizer = self._train_tokenizer()
        pace = self._measure()
        base = self._pretrain(pace)
        if base.exit_code:
            return base.exit_code
        scores = self._score(base, tokenizer)
        answers = self._fine_tune(base, pace)
        if answers.exit_code:
            return answers.exit_code
        self._ask(answers)
        return self._conclude(base, answers, scores, pace)

    def _heading(self, text: str) -> None:
        self.say(f"\n[{self.budget.spent:5.0f} s] {text}")

    def _collect(self) -> None:
        """The corpus and the conversations, written as the trainer reads them."""
        self._heading("Text: this Python's own library")
        most, held = corpus.MOST_BYTES, corpus.HELD_OUT_BYTES
        if self.options.quick:
            most, held = 150_000, 30_000
        found = corpus.collect(most_bytes=most, held_out_bytes=held)
        self.corpus = found
        data = self.folder / "data"
        data.mkdir(parents=True)
        train = conversations.conversations(found.train)
        held_out = conversations.conversations(found.held_out)
        self.files = Files(
            library=corpus.write_texts(found.train, data / "library.jsonl"),
            held_out=corpus.write_texts(found.held_out, data / "held-out.jsonl"),
            questions=conversations.write_conversations(
                train, data / "questions.jsonl"
            ),
            questions_held_out=conversations.write_conversations(
                held_out, data / "questions-held-out.jsonl"
            ),
        )
        self.say(
            f"{len(found.train):,} documents, {found.train_bytes / 1e6:.1f} MB, to "
            f"learn from; {len(found.held_out)} documents held out; "
            f"{len(train):,} questions with answers from docstrings"
        )

    def _train_tokenizer(self) -> Tokenizer:
        self._heading("Tokenizer: byte-level BPE, trained on that text")
        tokenizer = Tokenizer.train((s.text for s in self.corpus.train), VOCABULARY)
        tokenizer.save(self.folder / "tokenizer")
        self.say(f"{tokenizer.vocab_size:,} tokens")
        return tokenizer

    def _config(self, name: str, train: Path, held_out: Path) -> Config:
        config = ConfigPresets.debug().replace(
            train_data=(str(train),),
            eval_data=(str(held_out),) if held_out.stat().st_size else (),
            tokenizer=str(self.folder / "tokenizer"),
            run_dir=str(self.folder / name),
            save_every_n_batches=0,
            log_every_n_batches=20,
            eval_batches=8,
            compile=False,
        )
        if self.options.quick:
            return config.replace(global_batch_size=4, eval_batches=1)
        return config

    def _base_config(self) -> Config:
        return self._config("library", self.files.library, self.files.held_out)

    def _measure(self) -> Pace:
        self._heading("Pace: a few steps")
        steps = 2 if self.options.quick else TRIAL_STEPS
        pace = measure_pace(self._base_config(), steps)
        self.say(pace.describe())
        return pace

    def _train(
        self, config: Config, steps: int, seconds: float, share: float
    ) -> TrainResult:
        """Train for a share of the time left: fewer steps if the machine slows down."""
        if self.options.quick:
            steps = 5
        left, minutes = self.budget.left, self.options.minutes
        self.say(
            f"{steps} steps, about {steps * seconds:.0f} s of the {left:.0f} s left of "
            f"{minutes:g} minutes"
        )
        every = -(-steps // EVALUATIONS)
        config = config.replace(steps=steps, eval_every_n_batches=every)
        end = self.budget.spent + share * left
        while True:
            watch = Watch(math.inf if self.options.quick else end - self.budget.spent)
            result = Trainer(config, on_step=watch.on_step).train()
            if watch.shorter is None or result.exit_code != STOPPED:
                return result
            self.say(
                f"the machine is slower than measured: {watch.shorter} steps "
                f"instead of {config.get('steps')}"
            )
            config = Config(resume=str(result.run_dir), steps=watch.shorter)

    def _pretrain(self, pace: Pace) -> TrainResult:
        self._heading("Pretraining: the preset `debug` on the library")
        config = self._base_config()
        seconds = pace.step_seconds
        steps = self.budget.steps(
            PRETRAIN_SHARE, seconds, least=20, most=MOST_PRETRAIN_STEPS
        )
        return self._train(config, steps, seconds, PRETRAIN_SHARE)

    def _score(self, base: TrainResult, tokenizer: Tokenizer) -> Scores:
        """The pretrained model and the yardsticks on the held-out documents."""
        self._heading("Held-out text: bits per byte")
        network, _ = load(base.run_dir)
        scores = score(network, tokenizer, self.corpus)
        size = sum(len(source.text.encode()) for source in self.corpus.held_out)
        self.say(
            f"{len(self.corpus.held_out)} documents, {size:,} bytes, the same for all:"
        )
        self.say(scores.table())
        sample = complete(
            network,
            tokenizer,
            [PROMPT],
            Sampling(temperature=0.7, seed=1),
            max_new_tokens=80,
        )[0].text
        self.say("\nA sample, begun with its first line:")
        self.say(_indented(PROMPT + sample))
        figures = {
            f"bits per byte: {name}": f"{bits:.3f}"
            for name, bits in scores.named().items()
        }
        write_report(base.run_dir, samples=[(PROMPT, sample)], results=figures)
        return scores

    def _fine_tune(self, base: TrainResult, pace: Pace) -> TrainResult:
        self._heading("Fine-tuning: questions and answers, from the pretrained weights")
        self.say("(learned by heart: the loss on held-out questions may rise)")
        config = self._config(
            "answers", self.files.questions, self.files.questions_held_out
        )
        if not self.options.quick:
            config = config.replace(global_batch_size=FINE_TUNE_BATCH)
        # Learning by heart takes the rates of pretraining, not those of a fine-tuning.
        recipe = {leaf: config.get(leaf) for leaf in RECIPE}
        config = config.replace(init_from=str(base.run_dir), **recipe)
        rows = self._base_config().get("global_batch_size")
        seconds = pace.step_seconds * FINE_TUNE_BATCH / rows
        steps = self.budget.steps(
            FINE_TUNE_SHARE, seconds, least=20, most=MOST_FINE_TUNE_STEPS
        )
        return self._train(config, steps, seconds, FINE_TUNE_SHARE)

    def _ask(self, answers: TrainResult) -> None:
        """Two questions it was trained on, one it never saw."""
        self._heading("Questions")
        network, tokenizer = load(answers.run_dir)
        said = []
        for question, known in self._questions():
            session = ChatSession(
                network,
                tokenizer,
                sampling=Sampling(temperature=0.0),
                max_new_tokens=60,
            )
            answer = "".join(session.say(question)).strip()
            seen = "in the training data" if known else "held out"
            self.say(f"  > {question}   ({seen})\n{_indented(answer)}")
            said.append((f"{question} ({seen})", answer))
        write_report(answers.run_dir, samples=said)

    def _questions(self) -> list[tuple[str, bool]]:
        asked = conversations.QUESTIONS[0]
        known = [e.name for s in self.corpus.train for e in conversations.entries(s)]
        first = [name for name in FAVOURITES if name in known] or known
        fresh = [e.name for s in self.corpus.held_out for e in conversations.entries(s)]
        chosen = [(name, True) for name in first[:2]]
        chosen += [(name, False) for name in fresh[:1]]
        return [(asked.format(name=name), seen) for name, seen in chosen]

    def _conclude(
        self, base: TrainResult, answers: TrainResult, scores: Scores, pace: Pace
    ) -> int:
        """Write what was found, say what to type next, and judge."""
        self._write_results(base, answers, scores, pace)
        self._heading("Done. What to type next:")
        command = ".venv/bin/lumina" if Path(".venv/bin/lumina").exists() else "lumina"
        self.say(
            f"  {command} chat {answers.run_dir}\n"
            f'  {command} generate {base.run_dir} --prompt "import os"\n'
            f"  {command} train --preset debug --train-data YOUR_TEXTS --steps 500\n"
            f"Curves: {base.run_dir / 'report.html'} and "
            f"{answers.run_dir / 'report.html'}"
        )
        if scores.passed or self.options.quick:
            return 0
        self.say(
            f"\nFAILED: {scores.model:.3f} bits per byte on held-out text does not "
            f"beat counting pairs of bytes, {scores.byte_bigram:.3f}. A slow or busy "
            "machine needs longer: lumina demo --minutes 10"
        )
        return 1

    def _write_results(
        self, base: TrainResult, answers: TrainResult, scores: Scores, pace: Pace
    ) -> None:
        results = {
            "bits_per_byte": asdict(scores),
            "precision": pace.precision,
            "step_seconds": pace.step_seconds,
            "pretrain": {"steps": base.steps, "tokens": base.tokens},
            "fine_tune": {"steps": answers.steps, "tokens": answers.tokens},
            "seconds": round(self.budget.spent, 1),
        }
        path = self.folder / "results.json"
        path.write_text(json.dumps(results, indent=2) + "\n")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
