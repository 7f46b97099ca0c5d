"""What a run measures of the texts that its model writes, and what follows from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lumina.config import Config
from lumina.durable import write_error, write_file
from lumina.measure.text_safety.figures import DEFINITIONS, Figures, figures_of
from lumina.measure.text_safety.words import WordLists, read_words
from lumina.state.run_directory import RunDirectory
from lumina.train.controls import Controls
from lumina.train.recorder import Recorder

_NOT_ASSESSED = "not assessed"


@dataclass
class TextMonitor:
    """Measures samples, tells of violations, pauses the run and keeps the report.

    Attributes:
        config: the settings of the run.
        words: what is looked for.
        directory: of the run.
        recorder: where figures and violations are told.
        controls: where the end of the run is asked for.
        last: the step whose samples were measured last.
    """

    config: Config
    words: WordLists
    directory: RunDirectory
    recorder: Recorder
    controls: Controls
    last: int = -1

    @classmethod
    def of(
        cls,
        config: Config,
        directory: RunDirectory,
        recorder: Recorder,
        controls: Controls,
    ) -> TextMonitor | None:
        """For a run with these settings; None where nothing is to be measured.

        Raises:
            LuminaError: as `read_words`, for the file that `safety_words` names.
        """
        asked = config.text_safety
        if not (
            asked.monitor_toxic_generation
            or asked.monitor_bias
            or asked.monitor_hallucination
        ):
            return None
        words = read_words(asked.safety_words)
        return cls(config, words, directory, recorder, controls)

    def measure(
        self, step: int, texts: Sequence[tuple[str, str]], pause: bool = False
    ) -> None:
        """Measure the samples that were taken after `step` steps.

        Args:
            step: completed steps.
            texts: (prompt, continuation) pairs; none where none could be taken.
            pause: the run goes on, and may be paused.

        Raises:
            LuminaError: as `figures_of`; E106 or E204 where the report cannot be
                written.
        """
        if step == self.last:
            return  # the same weights write the same
        self.last = step
        asked = self.config.text_safety
        found = figures_of(
            texts,
            self.words,
            toxic=asked.monitor_toxic_generation,
            bias=asked.monitor_bias,
            unsupported=asked.monitor_hallucination,
        )
        violations = self._violations(found)
        if asked.generate_safety_report:  # before a violation ends the run
            self._report(step, texts, found, violations)
        self.recorder.event(
            "text_safety",
            "info",
            None,
            f"of {len(texts)} samples after step {step}: {_in_words(found)}",
            step=step,
            **found.to_dict(),
        )
        if not violations:
            return
        text = "; ".join(violations)
        self.recorder.event("safety_violation", "warning", None, text, step=step)
        if pause and asked.pause_on_safety_violation:
            reason = (
                "a person has to look at it (--resume goes on): samples after step "
                f"{step}: {text}"
            )
            advice = "read the texts in samples.jsonl, and the data"
            value = {
                "reason": reason, "failed": False, "paused": True, "advice": advice,
            }  # fmt: skip
            self.controls.request("stop_run", value, text, "text_monitor")

    def _violations(self, found: Figures) -> list[str]:
        """What is above its limit, in words."""
        asked, said = self.config.text_safety, []
        toxic, bias = found.toxic_rate, found.bias_score
        if toxic is not None and (toxic.value or 0.0) > asked.max_toxic_rate:
            said.append(
                f"{toxic.count} of {toxic.of} samples are toxic, more than a share of "
                f"{asked.max_toxic_rate:g} (max_toxic_rate)"
            )
        if bias is not None and (bias.value or 0.0) > asked.max_bias_score:
            (one, other), groups = bias.between, bias.groups
            said.append(
                f"{groups[one][0]} of {groups[one][1]} sentences about {one} are "
                f"unfavourable and {groups[other][0]} of {groups[other][1]} about "
                f"{other}: a difference of {bias.value:.3g}, more than "
                f"{asked.max_bias_score:g} (max_bias_score)"
            )
        return said

    def _report(
        self,
        step: int,
        texts: Sequence[tuple[str, str]],
        found: Figures,
        violations: Sequence[str],
    ) -> None:
        """Write the report, with what it held of earlier steps."""
        path, asked = self.directory.safety_report, self.config.text_safety
        measured = found.to_dict()
        concerned = {
            figure: [
                {"prompt": texts[at][0], "text": texts[at][1]} for at in rate["places"]
            ]
            for figure, rate in measured.items()
            if isinstance(rate, dict) and "places" in rate
        }
        now = {
            "step": step,
            **measured,
            "violations": list(violations),
            "texts_concerned": concerned,
        }
        report = {
            "definitions": {name: DEFINITIONS[name] for name in DEFINITIONS
                            if name in measured},
            "limits": {
                name: getattr(asked, name)
                for name in ("max_toxic_rate", "max_bias_score")
            },
            "words": self.words.source,
            "measured": [*self._earlier(step), now],
        }  # fmt: skip
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        try:
            write_file(path, text.encode("utf-8", "replace"))
        except OSError as error:
            raise write_error(error, path) from error

    def _earlier(self, step: int) -> list[dict[str, Any]]:
        """What was measured before this step; a run that was taken back forgets."""
        try:
            read = json.loads(self.directory.safety_report.read_text("utf-8"))
            return [one for one in read["measured"] if one["step"] < step]
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError, OSError) as error:
            file = self.directory.safety_report
            aside = file.with_suffix(".damaged")
            try:
                os.replace(file, aside)  # somebody may be able to mend it
            except OSError as refused:
                raise write_error(refused, aside) from error
            self.recorder.event(
                "safety_report_lost",
                "warning",
                None,
                f"the safety report of earlier steps cannot be read ({error}): it is "
                f"kept as {aside.name}, and a new one begins",
                step=step,
            )
            return []


def _in_words(found: Figures) -> str:
    said = []
    if (toxic := found.toxic_rate) is not None:
        said.append(
            f"toxic {toxic.count} of {toxic.of}"
            if toxic.of
            else f"toxic {_NOT_ASSESSED}"
        )
    if (bias := found.bias_score) is not None:
        said.append(
            f"bias {_NOT_ASSESSED} (too few sentences about two groups)"
            if bias.value is None
            else f"bias {bias.value:.3g} between {' and '.join(bias.between)}"
        )
    if (rate := found.unsupported_rate) is not None:
        words = "numbers and names that the prompts do not have"
        if "unsupported" in found.judges:
            words = "texts that the judge finds unsupported"
        said.append(
            f"{words}: {rate.count} of {rate.of}" if rate.of else f"{words}: none seen"
        )
    return ", ".join(said)
