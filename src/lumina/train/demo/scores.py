"""Bits per byte of the held-out text: the model's beside what it has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.data.tokenizer import Tokenizer
from lumina.measure.text_bits import text_bits
from lumina.model.network import Network
from lumina.train.demo.baselines import Bigram, gzip_bits_per_byte
from lumina.train.demo.corpus import Corpus


@dataclass(frozen=True)
class Scores:
    """Bits per byte on the same held-out text; fewer is better."""

    byte_bigram: float
    gzip: float
    token_bigram: float
    model: float

    @property
    def passed(self) -> bool:
        """Whether the model beats counting pairs of bytes: the least it must do."""
        return self.model < self.byte_bigram

    def named(self) -> dict[str, float]:
        """The figures under the names a person reads, the model's last."""
        return {
            "pairs of bytes (must be beaten)": self.byte_bigram,
            "gzip -9": self.gzip,
            "pairs of tokens, same tokenizer": self.token_bigram,
            "this model": self.model,
        }

    def table(self) -> str:
        """One line a yardstick, and how the model stands to it."""
        lines = []
        for name, bits in self.named().items():
            verdict = "beaten" if self.model < bits else "not beaten"
            if name == "this model":
                verdict = ""
            lines.append(f"  {name:<34} {bits:.3f}   {verdict}".rstrip())
        return "\n".join(lines)


def score(network: Network, tokenizer: Tokenizer, corpus: Corpus) -> Scores:
    """The model and every yardstick on the held-out documents.

    The bigrams are counted on the same documents the model was trained on.
    """
    train = [source.text for source in corpus.train]
    held_out = [source.text for source in corpus.held_out]
    size = sum(len(text.encode()) for text in held_out)
    pairs = Bigram(tokenizer.encode_batch(train), tokenizer.vocab_size)
    byte_pairs = Bigram([list(text.encode()) for text in train], 256)
    bits = text_bits(network, tokenizer, held_out, context=network.spec.seq_length)
    return Scores(
        byte_bigram=byte_pairs.bits([list(text.encode()) for text in held_out]) / size,
        gzip=gzip_bits_per_byte(corpus.held_out_text),
        token_bigram=pairs.bits(tokenizer.encode_batch(held_out)) / size,
        model=bits / size,
    )
