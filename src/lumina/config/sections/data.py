"""Options of the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class DataSection(Section):
    """What is read, and how it becomes tokens."""

    train_data: tuple[str, ...] = Field(
        (), description="files, folders, patterns or archives to train on"
    )
    data_kind: str | None = Field(
        None,
        description="text, tasks, sudoku, arc or a kind that a plug-in registers; "
        "default: what the other options describe",
    )
    data_options: tuple[str, ...] = Field(
        (), description="options of a plug-in's kind of data, each NAME=VALUE"
    )
    eval_data: tuple[str, ...] = Field(
        (), description="held-out files; default: split off the training data"
    )
    eval_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the documents split off; default: 15% of fewer than "
        "5,000, 10% of up to 50,000, 5% of more",
    )
    eval_split: Literal["hash", "stratified"] = Field(
        "hash",
        description="which documents are split off: by their hash, or the same share "
        "of every source, of texts and conversations, and of every length",
    )
    tokenizer: str | None = Field(
        None,
        description="a tokenizer.json, .model, .tiktoken or .gguf file or its folder, "
        "cl100k_base and the like, or hf:OWNER/NAME; default: train byte BPE",
    )
    tokenizer_vocab_size: int | None = Field(
        None,
        ge=260,
        description="size of a tokenizer trained on the data; default: 2,048 to 50,304 "
        "by its bytes, at most vocab_size",
    )
    format: str | None = Field(
        None,
        description="the form of the records: text, messages, sharegpt, alpaca, "
        "prompt, oasst, self_instruct and others (`lumina data show` names it); "
        "default: each record is of the form that its fields have",
    )
    field: tuple[str, ...] = Field(
        (),
        description="fields of the records under other names, each NAME=FIELD, such as "
        "question=prompt answer=completion",
    )
    loss_on: str = Field(
        "assistant",
        description=(
            "what of a conversation counts in the loss: the turns of roles, joined by "
            "commas (assistant,user,system,tool), last (the assistant's last turn) or "
            "all (everything, marks included)"
        ),
    )
    role_weights: tuple[str, ...] = Field(
        (),
        description=(
            "how much the tokens of a role weigh in the loss, each ROLE=NUMBER; a role "
            "with a weight above 0 counts in the loss"
        ),
    )
    turn_weights: tuple[float, ...] = Field(
        (),
        description=(
            "how much turns weigh in the loss by their position: the first number "
            "holds up to the user's second turn, the second up to the third, and so "
            "on; the last holds for all that follow"
        ),
    )
    chat_template: str | None = Field(
        None,
        description="what writes conversations: a file with a Jinja template, "
        "tokenizer (its own one) or lumina (Lumina's own markers); default: the "
        "tokenizer's, and Lumina's where it has none",
    )
    long_conversations: Literal["split", "truncate", "drop", "cut"] = Field(
        "split",
        description="a conversation longer than a row: split it into pieces that each "
        "have the question, truncate it, drop it, or cut it where the row ends and go "
        "on without the question, as earlier versions did",
    )
    data_errors: Literal["skip", "fatal"] = Field(
        "fatal", description="a bad record: skip it and say so, or stop"
    )
    max_conversations_per_dataset: int | None = Field(
        None,
        ge=1,
        description=(
            "take at most this many conversations of the files, or of each source, in "
            "their order; the rest is counted and left out"
        ),
    )
    max_conversations_per_file: int | None = Field(
        None, ge=1, description="take at most this many conversations of each file"
    )
    ascii_only: bool = Field(
        False,
        description="take characters beyond ASCII out of texts; how many is reported",
    )
    max_record_bytes: int = Field(
        8 * 2**20, ge=1024, description="a longer line or record is a bad record"
    )
    encoding: tuple[str, ...] = Field(
        (),
        description="the encoding of files that are not UTF-8, such as latin-1 or "
        "cp1251; PATTERN=NAME states it for the files whose names fit, such as "
        "'*-Latin1=latin-1'",
    )
    csv_columns: tuple[str, ...] = Field(
        (),
        description="the columns of .csv and .tsv files that have no row of names",
    )
    json_field: str | None = Field(
        None,
        description="the field of a .json file with the array of records; default: the "
        "only field with an array of objects",
    )
    quality_field: str | None = Field(
        None,
        description="the field of each record with its score, a number, which "
        "curriculum quality and sample_by quality read",
    )
    watch_vocabulary: bool = Field(
        False,
        description="count how often each token of the vocabulary is seen, and report "
        "at evaluations and at the end which share was seen and which is rare, also "
        "for each source",
    )
    max_member_bytes: int = Field(
        64 * 2**30,
        ge=1,
        description="a larger member of an archive is refused, or left out where bad "
        "records are skipped",
    )
    max_unpacked_bytes: int = Field(
        2**40,
        ge=1,
        description="an archive or a compressed file that gives more bytes is refused",
    )
    max_unpacking_ratio: float = Field(
        250.0,
        gt=1,
        description=(
            "refuse an archive or a compressed file that unpacks to more than 16 MiB "
            "and to more than this many times its size, as files do that are made to "
            "fill a disk"
        ),
    )
    tasks: tuple[str, ...] = Field(
        (), description="tasks in place of train_data, each NAME=PATH; a head for each"
    )
    task_eval_data: tuple[str, ...] = Field(
        (), description="held-out files of tasks, NAME=PATH; default: split off"
    )
    task_sampling_strategy: Literal["proportional", "round_robin"] = Field(
        "proportional",
        description="how tasks share the rows: in proportion to size, or in turns",
    )
