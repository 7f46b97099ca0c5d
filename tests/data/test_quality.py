"""Checks of data: each finds what it is for, and nothing in clean data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lumina
from lumina.config import Config
from lumina.data.documents import read_documents
from lumina.data.quality.assess import Report
from lumina.data.quality.check import Options, checks
from lumina.data.quality.checks.pii import KINDS, without_pii
from lumina.data.quality.checks.repetition import broken_rule
from lumina.data.quality.comprehensive import CHECKLIST
from lumina.data.quality.reports import as_html, as_text
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from quality_data import CLEAN, CLEAN_TALK, assess, prose, turns, write


def check(path: Path, name: str, **options: Any) -> Any:
    return assess([path], Options(**options)).result(name)


EVIDENCE = [
    ("integrity", ['{"text": "half'], "failed", 1),
    ("structure", [{"no": "text"}], "failed", 1),
    ("structure", [turns("a", "b")], "failed", 0),  # two forms in one file
    ("encoding", [{"text": "a bell\x07 rings"}], "failed", 1),
    ("encoding", [{"text": "lost: \ufffd"}], "failed", 1),
    ("encoding", [{"text": "GrÃ¶Ãe und SchÃ¼ler"}], "failed", 1),
    ("empty", [turns("a", "")], "failed", 1),
    ("empty", [{"text": " "}], "failed", 1),
    ("roles", [turns("a", "b", "c", roles="uua")], "failed", 1),
    ("roles", [turns("a", "b", roles="au")], "failed", 1),
    ("roles", [{"messages": [{"role": "judge", "content": "b"}]}], "failed", 1),
    ("conversations", [turns("a", "b", "c")], "failed", 1),
    ("lengths", [{"text": "x"}], "found", 1),
    ("duplicates", [CLEAN[3], CLEAN[3]], "found", 2),
    ("near_duplicates", [{"text": prose(3) + " end"}], "found", 1),
    ("repetition", [{"text": "the same line\n" * 40}], "found", 1),
    ("content", [{"text": "1 2 3 4 5 6 7 8 9 10 " * 9}], "found", 1),
    ("pii", [{"text": "mail to jane.doe@example.org"}], "found", 1),
]


@pytest.mark.covers(
    "DAT-35: JSON integrity",
    "DAT-35: structure and required fields",
    "DAT-35: encoding",
    "DAT-35: duplicates",
    "DAT-35: content quality",
)
@pytest.mark.parametrize(("name", "records", "verdict", "count"), EVIDENCE)
def test_each_check_finds_what_it_is_for(
    tmp_path: Path, name: str, records: list[Any], verdict: str, count: int
) -> None:
    clean = CLEAN_TALK if "messages" in str(records) and name != "structure" else CLEAN
    base = check(write(tmp_path / "clean.jsonl", clean), name)
    assert base.verdict in ("passed", "not assessed") and not base.count
    found = check(write(tmp_path / "data.jsonl", [*clean, *records]), name)
    assert (found.verdict, found.count) == (verdict, count)
    for example in found.examples[:1] if count else ():
        assert example.source.endswith("data.jsonl") and example.line == len(clean) + 1


@pytest.mark.covers("DAT-35: role consistency", "DAT-35: conversation length")
def test_tools_and_systems_have_their_places(tmp_path: Path) -> None:
    good = [turns("a", "b", "c", roles="sua"), turns(*"abcd", roles="uata")]
    path = write(tmp_path / "data.jsonl", good)
    assert check(path, "roles").verdict == "passed"
    talk = check(path, "conversations")
    assert talk.verdict == "passed"
    assert talk.numbers["least"] == 3 and talk.numbers["most"] == 4
    assert talk.bars == [("2–3", 1), ("4–7", 1)]


@pytest.mark.covers("DAT-35: token-count distribution")
def test_lengths_are_counted_in_tokens_of_whole_documents(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([prose(n) for n in range(5)], 300)
    path = tmp_path / "long.txt"
    line = "some words of a line\n"
    path.write_text(line * 9000 + "<|endoftext|>" + line)
    found = check(path, "lengths", tokenizer=tokenizer, most_tokens=50_000)
    assert found.of == 2 and found.count == 1
    ids = [tokenizer.encode(line.rstrip()), tokenizer.encode(line * 9000)]
    assert found.numbers["least tokens"] == pytest.approx(len(ids[0]), abs=1)
    assert found.numbers["most tokens"] == pytest.approx(len(ids[1]), rel=0.001)
    assert sum(count for _, count in found.bars) == 2


def test_near_documents_bounds_what_is_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [*CLEAN, {"text": prose(3) + " end"}])
    found = check(path, "near_duplicates", near_documents=20)
    assert found.count == 0 and found.numbers["not compared"] == 1
    assert "1 further" in found.message


@pytest.mark.parametrize(("ngram", "count"), [(13, 1), (8, 2)])
def test_overlap_with_an_evaluation_set(tmp_path: Path, ngram: int, count: int) -> None:
    words = prose(99, 40).split()
    tests = write(tmp_path / "test.jsonl", [{"question": " ".join(words), "n": [1]}])
    records = [
        {"text": f"{prose(50)} {', '.join(words[3:16]).upper()}! {prose(51)}"},
        {"text": f"{prose(52)} {' '.join(words[20:29])} {prose(53)}"},
    ]
    path = write(tmp_path / "data.jsonl", [*CLEAN, *records])
    found = check(path, "overlap", eval_data=(str(tests),), ngram=ngram)
    assert found.count == count and found.examples[0].line == len(CLEAN) + 1
    assert check(path, "overlap").verdict == "not assessed"


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        ("email", "jane+x@mail.example.co.uk", "jane@localhost"),
        ("iban", "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432", "GB82WEST12345698765433"),
        ("card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("card", "378282246310005", "000000000000000"),
        ("ip", "8.8.8.8", "192.168.0.1"),
        ("ip", "2001:4860:4860::8888", "999.1.1.1"),
        ("phone", "+49 30 901820", "1234-5678"),
        ("phone", "(555) 123-4567", "3.14159265"),
    ],
)
@pytest.mark.covers("DAT-37: remove_pii")
def test_patterns_of_personal_data(kind: str, yes: str, no: str) -> None:
    from collections import Counter

    found: Counter[str] = Counter()
    assert without_pii(f"so {yes}, then", found) == f"so [{kind.upper()}], then"
    assert found == {kind: 1}
    other: Counter[str] = Counter()
    assert without_pii(f"so {no}, then", other) == f"so {no}, then" and not other


def test_repetition_is_judged_as_by_gopher() -> None:
    def rule(text: str) -> str:
        return (broken_rule(text, text.split()) or "none").partition(":")[0]

    lines = [f"{prose(n, 12)}" for n in range(20)]
    assert rule("\n".join(lines)) == "none"
    assert rule("\n".join(lines[:14] + lines[:7])) == "repeated lines"
    assert rule(prose(1, 60) + " tick tock" * 12).startswith("most frequent 2")
    again = prose(2, 30)
    assert rule(f"{again} {prose(3, 20)} {again}").startswith("repeated 5 words")
    # Exactly the share that is allowed: 5 of 100 letters are there again.
    words = [f"w{n:03}x" for n in range(100)]
    assert rule(" ".join(words + words[:5])) == "none"


@pytest.mark.covers("DAT-36")
def test_every_point_of_the_checklist_is_answered(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", CLEAN_TALK)
    found = lumina.validate_data_comprehensive(str(path), max_check=5)
    assert set(found) == {*CHECKLIST, "report"}
    assert found["report"]["documents"] == 5 and not found["report"]["complete"]
    unknown = {
        "language_appropriate", "no_toxic_content", "factually_accurate",
        "diverse_topics",
    }  # fmt: skip
    for key in CHECKLIST:
        assert found[key] == ("not assessed" if key in unknown else "passed"), key
    bad = write(tmp_path / "bad.jsonl", [turns("a", "b", "c"), "{", {"no": 1}])
    words = frozenset({"b"})
    found = lumina.validate_data_comprehensive(
        [bad], scripts=("greek",), word_lists={"mine": words}
    )
    failed = {key for key in CHECKLIST if found[key] == "failed"}
    assert failed == {
        "valid_json", "consistent_schema", "no_truncated_conversations",
        "language_appropriate", "no_toxic_content",
    }  # fmt: skip
    json.dumps(found)


def test_each_key_of_the_checklist_has_one_check() -> None:
    answered = [key for check in checks().values() for key in check.answers]
    assert sorted(answered) == sorted(CHECKLIST)


def test_a_report_shows_text_as_text(tmp_path: Path) -> None:
    records = [{"text": "<script>alert(1)</script>\x07"}, *CLEAN]
    report = assess([write(tmp_path / "data.jsonl", records)], Options())
    page = as_html(report, "Data <b>")
    assert "<script>" not in page and "Data &lt;b&gt;" in page
    assert page.count("<svg") == sum(bool(one.bars) for one in report.results) > 1
    text = as_text(report, numbers=True)
    assert all(one.message in text for one in report.results)
    assert "U+0007" in text


@pytest.mark.parametrize(
    "suffix", [".jsonl", pytest.param(".txt", marks=pytest.mark.slow)]
)
@pytest.mark.covers("DAT-35: --fix-errors")
def test_mended_data_has_no_errors_and_every_change_is_said(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.cli.main import main

    long = "".join(f"Line {n} of a text that has many.\n" for n in range(3000))
    texts = tmp_path / "texts.txt"
    texts.write_text(long + "<|endoftext|>\nOne more.<|endoftext|>\nOne more.")
    records = [*CLEAN, CLEAN[0], {"text": "a\x07b"}, '{"half', {"text": ""}]
    path = write(tmp_path / "data.jsonl", records)
    output = tmp_path / f"fixed{suffix}"
    words = ["data", "validate", str(path), str(texts), "--fix-errors", str(output)]
    assert main([*words, "--near-documents", "0"]) == 1
    printed = capsys.readouterr().out
    assert f"{output}: {len(CLEAN) + 3} of {len(CLEAN) + 5} documents" in printed
    left: dict[str, str] = {}
    for one in read_documents([output]):
        key = next(reversed(left), "") if one.continues else f"{len(left)}"
        left[key] = left.get(key, "") + (one.text or "")
    expected = [one["text"] for one in CLEAN] + ["ab", long, "One more."]
    assert [text.strip() for text in left.values()] == [t.strip() for t in expected]
    log = Path(f"{output}.changes.jsonl").read_text().splitlines()
    changes = [json.loads(line) for line in log]
    assert [(one["line"], one["check"]) for one in changes] == [
        (21, "duplicates"), (22, "encoding"), (23, "integrity"), (24, "integrity"),
        (3003, "duplicates"),
    ]  # fmt: skip
    assert main(words) != 1  # neither file is overwritten
    assert "E002" in capsys.readouterr().err
    again = ["data", "validate", str(output), "--near-documents", "0", "--quiet"]
    assert main(again) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.covers(
    "DAT-37: input/output path",
    "DAT-37: remove_toxic, remove_nsfw",
    "DAT-37: check_bias, check_factuality",
    "DAT-37: generate_report",
)
def test_a_sanitised_copy_has_no_personal_data(tmp_path: Path) -> None:
    talk = {"messages": [
        {"role": "user", "content": "I am jane@example.org", "name": "jane"},
        {"role": "assistant", "content": "Call +49 30 901820."},
    ]}  # fmt: skip
    records = [talk, turns("say damn it", "no"), CLEAN_TALK[0], CLEAN_TALK[0]]
    path = write(tmp_path / "data.jsonl", records)
    words = tmp_path / "words.txt"
    words.write_text("# a list\nDamn it\n")
    output = tmp_path / "out.jsonl"
    found = lumina.sanitize_dataset(
        path, output, remove_toxic=str(words), remove_nsfw=True, check_bias=True,
        remove_duplicates=True,
    )  # fmt: skip
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert kept == [
        {"messages": [
            {"role": "user", "content": "I am [EMAIL]", "name": "jane"},
            {"role": "assistant", "content": "Call [PHONE]."},
        ]},
        CLEAN_TALK[0],
    ]  # fmt: skip
    assert (found["read"], found["written"]) == (4, 2)
    assert found["left_out"] == {"word_lists": 1, "duplicates": 1}
    assert set(found["not_assessed"]) == {"remove_nsfw", "check_bias"}
    report = json.loads(Path(found["report"]).read_text())
    assert report["changed"] == {"pii": 1}
    with pytest.raises(LuminaError, match="E002"):
        lumina.sanitize_dataset(path, output)
    plain = lumina.sanitize_dataset(
        path, tmp_path / "kept.jsonl", remove_pii=False, generate_report=False
    )
    assert plain["written"] == 4 and not plain["changed"] and "report" not in plain


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_counted_once(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("odd") / "data.jsonl"
    path.write_bytes(data)
    try:
        report: Report = assess([path], Options())
    except LuminaError as error:
        assert error.code.startswith("E1")
        return
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert report.documents <= len(lines)
    for result in report.results:
        assert result.verdict in (
            "passed", "failed", "found", "information", "not assessed"
        )  # fmt: skip


def test_data_that_is_prepared_ahead_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.cli.main import main
    from lumina.data.prepare import prepare

    path = write(tmp_path / "data.jsonl", CLEAN)
    words = ["data", "prepare", str(path), "--tokenizer-vocab-size", "300"]
    assert main(words) == 0
    assert "are in the cache now" in capsys.readouterr().out
    config = Config(train_data=[str(path)], tokenizer_vocab_size=300)
    assert prepare(config).stats["cached"] is True
    assert main(words) == 0
    assert "were in the cache already" in capsys.readouterr().out
    assert main(["data", "prepare"]) != 0
    assert "E005" in capsys.readouterr().err
    assert set(KINDS) == {"email", "iban", "card", "ip", "phone"}


@pytest.mark.covers(
    "DAT-35: --validate-data FILE, --create-report, --quiet, --show-stats"
)
def test_the_words_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.cli.main import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.jsonl", CLEAN_TALK)
    words = ["data", "validate", "--validate-data", "data.jsonl", "--create-report"]
    assert main([*words, "--show-stats"]) == 0
    printed = capsys.readouterr().out
    assert "20 documents" in printed and "turns of user: 20" in printed
    folder = tmp_path / "data-report"
    assert {file.name for file in folder.iterdir()} == {
        "report.txt", "report.json", "report.html"
    }  # fmt: skip
    found = json.loads((folder / "report.json").read_text())
    assert found["documents"] == 20 and not found["failed"]
    assert main(words) != 0  # the report is not overwritten
    assert "E002" in capsys.readouterr().err
    assert main([*words[:4], "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    write(tmp_path / "words.txt", ["number"])
    listed = ["--word-list", "mine=words.txt"]
    assert main([*words[:4], "--quiet", *listed]) == 1
    assert main(["data", "stats", "data.jsonl"]) == 0
    assert "order of roles" in capsys.readouterr().out
    assert main(["data", "validate"]) != 0
    assert "E005" in capsys.readouterr().err
    out = ["--output", "out.jsonl", "--remove-nsfw", "words.txt", "--check-bias"]
    assert main(["data", "sanitize", "data.jsonl", *out]) == 0
    printed = capsys.readouterr().out
    assert "left out by word_lists: 20" in printed and "check_bias" in printed


def test_records_of_other_names_are_sanitised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.cli.main import main

    record = {"question": "jane@example.org?", "answer": "Yes.", "origin": "web"}
    path = write(tmp_path / "data.jsonl", [record])
    words = ["data", "sanitize", path, "--output", tmp_path / "out.jsonl"]
    words += ["--format", "prompt", "--field", "question=prompt", "answer=completion"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "changed by pii: 1" in printed and "field origin" in printed
    assert "[EMAIL]?" in (tmp_path / "out.jsonl").read_text()


def test_records_with_two_answers_are_looked_at_and_never_halved(
    tmp_path: Path,
) -> None:
    pair = {"prompt": "a?", "chosen": "Well.", "rejected": "jane@example.org"}
    path = write(tmp_path / "pairs.jsonl", [pair, CLEAN[0]])
    assert assess([path], Options()).documents == 2
    found = lumina.sanitize_dataset(path, tmp_path / "out.jsonl")
    assert (found["written"], found["left_out"]) == (1, {"integrity": 1})


@pytest.mark.parametrize("at", [0, 2500])
def test_of_a_long_text_nothing_is_left_from_a_listed_word_on(
    tmp_path: Path, at: int
) -> None:
    lines = [f"Line {n} of a text that has many more of them.\n" for n in range(4000)]
    lines[at] = "the zymurgist was here\n"
    path = tmp_path / "data.txt"
    path.write_text("".join(lines) + "<|endoftext|>Another.")
    words = tmp_path / "words.txt"
    words.write_text("zymurgist\n")
    output = tmp_path / "out.txt"
    found = lumina.sanitize_dataset(path, output, remove_toxic=str(words))
    left = output.read_text()
    assert "zymurgist" not in left and "Another." in left
    assert lines[3998] not in left and (lines[1] in left) is (at > 0)
    assert found["left_out"] == {"word_lists": 1}


def test_roles_that_a_folder_describes_are_known_to_the_checks(tmp_path: Path) -> None:
    """The names that training reads: all turns are in order, and all records good."""
    talk = {"chat": [{"who": "me", "said": "two?"}, {"who": "it", "said": "It is 2."}]}
    write(tmp_path / "talks.jsonl", [talk] * 2)
    tags = {"role_tag": "who", "content_tag": "said"}
    tags |= {"user_tag": "me", "assistant_tag": "it"}
    info = {"file_name": "talks.jsonl", "formatting": "sharegpt", "tags": tags}
    info["columns"] = {"messages": "chat"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"talks": info}))
    report = assess([tmp_path], Options())
    assert report.documents == 2
    for name in ("structure", "roles"):
        assert report.result(name).verdict == "passed", report.result(name)
