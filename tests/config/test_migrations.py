"""Files of earlier versions of the configuration format."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config, migrations
from lumina.errors import LuminaError


@pytest.mark.covers("CKP-08: migration of older configuration formats", "CFG-18")
@pytest.mark.covers("DOC-05: backward-compatible configuration")
def test_a_file_of_the_first_version_means_what_it_meant(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    Config(train_data=("a",)).save(file)
    now = file.read_text()
    lines = [line for line in now.splitlines() if "long_conversations" not in line]
    assert lines.pop(0) == f"config_version: {migrations.VERSION}"
    file.write_text("\n".join(lines) + "\n")
    old = Config.load(file)
    assert Config().data.long_conversations != "cut"
    assert old.data.long_conversations == "cut"
    assert not old.is_chosen("long_conversations")
    old.save(file)
    again = Config.load(file)
    assert again == old and not again.is_chosen("long_conversations")
    # A person's own file has the defaults of today.
    file.write_text("train_data: [a]\n")
    assert Config.load(file) == Config(train_data=("a",))


@pytest.mark.covers("CFG-18")
def test_each_step_is_taken_in_turn(tmp_path: Path, monkeypatch) -> None:
    def doubled(values: dict) -> None:
        values["training"] = values["train"]  # a section that had another name
        values["train"] = {"steps": 2 * values.pop("training")["number_of_steps"]}

    def one_more(values: dict) -> None:
        values["train"]["steps"] += 1

    monkeypatch.setattr(migrations, "VERSION", 4)
    steps = migrations.MIGRATIONS | {2: doubled, 3: one_more}
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    file = tmp_path / "config.yaml"
    file.write_text("config_version: 2\ntrain:\n  number_of_steps: 20\n")
    assert Config.load(file).train.steps == 41
    file.write_text("config_version: 4\ntrain:\n  steps: 20\n")
    assert Config.load(file).train.steps == 20


@pytest.mark.parametrize(
    ("version", "code"), [("99", "E101"), ("new", "E005"), ("0", "E005")]
)
def test_a_version_that_is_not_known_is_refused(
    version: str, code: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"config_version: {version}\nsteps: 3\n")
    with pytest.raises(LuminaError) as caught:
        Config.load(file)
    assert caught.value.code == code and str(file) in caught.value.message
