"""Tiny shapes and packed batches that several tests share."""

from __future__ import annotations

import torch

from lumina.batch import IGNORE, Batch
from lumina.model.spec import ModelSpec


def tiny_spec(**changes):
    """Two narrow blocks with grouped queries and a vocabulary that needs padding."""
    values = {
        "vocab_size": 100,
        "padded_vocab_size": 128,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "seq_length": 24,
        "init_std": 0.2,
    }
    return ModelSpec(**(values | changes))


def random_ids(rows, length, vocab=100, seed=0):
    """[rows, length] random tokens."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (rows, length), generator=g)


def shifted(ids):
    """Labels of one document a row: the next token, and none for the last."""
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORE)], dim=1)


def packed_batch(rows, length, seed=0, vocab=100):
    """A batch of rows of documents, `rows` being lists of document lengths.

    What a row's documents leave over is padding.
    """
    ids = random_ids(len(rows), length, vocab, seed)
    labels = shifted(ids)
    positions, documents = torch.zeros_like(ids), torch.full_like(ids, -1)
    starts = []
    for r, lengths in enumerate(rows):
        begin = 0
        for number, size in enumerate(lengths):
            part = slice(begin, begin + size)
            positions[r, part] = torch.arange(size)
            documents[r, part] = number
            labels[r, begin + size - 1] = IGNORE
            starts.append(r * length + begin)
            begin += size
        if begin < length:
            starts.append(r * length + begin)
            positions[r, begin:] = torch.arange(length - begin)
            labels[r, begin:] = IGNORE
            ids[r, begin:] = 0
    ends = [len(rows) * length] * 3
    return Batch(
        input_ids=ids,
        labels=labels,
        position_ids=positions,
        document_ids=documents,
        cu_seqlens=torch.tensor(starts + ends, dtype=torch.int32),
        max_seqlen=length,
        one_document_rows=False,
    )
