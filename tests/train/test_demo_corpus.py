"""The demonstration's text, questions and yardsticks."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from lumina.errors import LuminaError
from lumina.train.demo import conversations, corpus
from lumina.train.demo.baselines import Bigram, bits_per_byte, gzip_bits_per_byte


@pytest.fixture(scope="module")
def library() -> corpus.Corpus:
    """This Python's own corpus."""
    return corpus.collect()


def test_the_library_gives_megabytes_of_text_split_by_document(
    library: corpus.Corpus,
) -> None:
    assert corpus.LEAST_BYTES < library.train_bytes <= corpus.MOST_BYTES
    held_out = len(library.held_out_text.encode())
    most = corpus.HELD_OUT_BYTES + corpus.LARGEST_HELD_OUT + len(library.held_out)
    assert corpus.HELD_OUT_BYTES <= held_out <= most
    names = [source.name for source in library.train + library.held_out]
    assert len(names) == len(set(names))
    assert not any("site-packages" in name or "/test" in name for name in names)


def test_the_same_library_gives_the_same_corpus(library: corpus.Corpus) -> None:
    assert corpus.collect() == library


def write_library(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_modules_are_read_and_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    library = write_library(
        tmp_path / "lib",
        {
            "loud.py": f'"""Makes noise when imported."""\nopen({str(flag)!r}, "w")\n',
            "broken.py": "this is no python at all (\n",
            "test/test_x.py": "secret = 1\n",
            "pydoc_data/topics.py": "topics = {'while': 'The while statement'}\n",
        },
    )
    (library / "latin.py").write_bytes(b"# caf\xe9\n")
    found = corpus.collect(library, least_bytes=10, held_out_bytes=0)
    assert {s.name for s in found.train} == {"loud.py", "broken.py", "topics/while"}
    assert conversations.conversations(found.train)
    assert not flag.exists()


def test_training_text_stays_within_its_bound(tmp_path: Path) -> None:
    library = write_library(tmp_path, {f"m{n}.py": "x = 1\n" * 50 for n in range(20)})
    found = corpus.collect(
        library, most_bytes=2_000, held_out_bytes=500, least_bytes=10
    )
    assert 1_500 < found.train_bytes <= 2_000
    assert len(found.held_out) == 2


def test_a_python_without_sources_is_refused_with_a_code(tmp_path: Path) -> None:
    with pytest.raises(LuminaError) as caught:
        corpus.collect(tmp_path)
    assert caught.value.code == "E105"
    assert str(tmp_path) in caught.value.message


def test_documents_are_written_as_json_lines(tmp_path: Path) -> None:
    sources = (corpus.Source("a.py", "one\ntwo"), corpus.Source("b.py", "drei ä"))
    path = corpus.write_texts(sources, tmp_path / "texts.jsonl")
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert records == [{"text": "one\ntwo"}, {"text": "drei ä"}]


@pytest.mark.thorough
def test_what_copytree_does_is_asked_and_answered(
    library: corpus.Corpus, tmp_path: Path
) -> None:
    records = conversations.conversations(library.train + library.held_out)
    path = conversations.write_conversations(records, tmp_path / "chat.jsonl")
    asked = {}
    for line in path.read_text("utf-8").splitlines():
        question, answer = json.loads(line)["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        asked[question["content"]] = answer["content"]
    about = [q for q in asked if "shutil.copytree" in q]
    assert len(about) == len(conversations.QUESTIONS)
    assert asked[about[0]].startswith("Recursively copy a directory tree")
    assert len(asked) > 2_000


def test_only_what_one_can_call_by_name_is_asked_about() -> None:
    text = '''"""About the module as a whole."""
def visible():
    """Does a thing

    at great length."""
    def inner():
        """Cannot be reached from outside."""
def _hidden():
    """Is nobody's business at all."""
class Box:
    """Holds several other things."""
    def open(self):
        """Opens the box, as methods do."""
def lower():
    """lower case first, so no sentence."""
def shut():
    """S.shut() -> bool, which is a signature."""
'''
    found = list(conversations.entries(corpus.Source("pack/__init__.py", text)))
    assert [(e.name, e.answer) for e in found] == [
        ("pack", "About the module as a whole."),
        ("pack.Box", "Holds several other things."),
    ]
    for name in ("_private.py", "pack/part.py", "topics/while"):
        assert not list(conversations.entries(corpus.Source(name, text)))


def test_gzip_yardstick_is_gzip_nine() -> None:
    text = "the quick brown fox. " * 100
    size = len(gzip.compress(text.encode(), 9))
    assert gzip_bits_per_byte(text) == pytest.approx(8 * size / len(text), rel=0.05)


def random_documents(count: int, vocab: int, seed: int) -> list[list[int]]:
    """Documents in which every token mostly follows its predecessor."""
    source = random.Random(seed)
    documents = []
    for _ in range(count):
        ids = [source.randrange(vocab)]
        for _ in range(200):
            jump = source.random() < 0.2
            ids.append(source.randrange(vocab) if jump else (ids[-1] + 1) % vocab)
        documents.append(ids)
    return documents


def test_bigram_probabilities_sum_to_one_in_every_context() -> None:
    vocab = 7
    model = Bigram([[0, 1, 2, 3], [0, 1, 1], [3]], vocab)
    for context in range(vocab + 1):  # 4, 5, 6 were never seen; 7 is the start
        pairs = np.arange(vocab) + context * vocab
        probabilities = model.probabilities(pairs)
        assert (probabilities > 0).all()
        assert probabilities.sum() == pytest.approx(1.0)


def test_bigram_learns_the_pattern_and_generalises() -> None:
    vocab = 16
    model = Bigram(random_documents(50, vocab, seed=1), vocab)
    held_out = random_documents(10, vocab, seed=2)
    # What the generator itself would need: 0.2 spread over 16, the rest on +1.
    perfect = 0.0
    for ids in held_out:
        perfect += math.log2(vocab)
        for before, after in itertools.pairwise(ids):
            follows = after == (before + 1) % vocab
            perfect -= math.log2(0.2 / vocab + 0.8 * follows)
    assert perfect < model.bits(held_out) < perfect * 1.03


def test_bits_per_byte_of_a_fair_coin_is_one() -> None:
    assert bits_per_byte(8 * math.log(2), 8) == pytest.approx(1.0)
