"""Options of what is counted in the texts that a model writes while it trains."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class TextSafetySection(Section):
    """What is measured of the samples of a run (report_samples), and what follows."""

    monitor_toxic_generation: bool = Field(
        False,
        description="count the samples with a toxic phrase; words alone do not say "
        "whether a text is harmful",
    )
    monitor_bias: bool = Field(
        False,
        description="compare how often samples speak unfavourably of groups of people",
    )
    monitor_hallucination: bool = Field(
        False,
        description="count numbers and names in samples that the prompt does not have: "
        "where to look, no proof; it has no limit",
    )
    max_toxic_rate: float = Field(
        0.01,
        ge=0,
        le=1,
        description="a larger share of toxic samples is a violation; with fewer than "
        "a hundred of them, one is",
    )
    max_bias_score: float = Field(
        0.3,
        ge=0,
        le=1,
        description="a larger difference between two groups is a violation",
    )
    pause_on_safety_violation: bool = Field(
        False,
        description="end the run within two steps where samples on the way violate a "
        "limit, with its State saved; --resume goes on",
    )
    generate_safety_report: bool = Field(
        False,
        description="write what was measured, with definitions and the texts "
        "concerned, to safety_report.json in the run's folder",
    )
    safety_words: str | None = Field(
        None,
        description="TOML file with your own word lists: toxic, unfavourable and "
        "[groups.AXIS]; default: Lumina's own short ones",
    )
