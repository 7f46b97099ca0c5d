"""Options of what is remembered of a run, and taken over from earlier ones."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class ExperienceSection(Section):
    """The memory of runs."""

    experience: str | None = Field(
        None,
        description="the file that remembers how runs went and what came of decisions; "
        "off: nothing is remembered or taken over; default: LUMINA_EXPERIENCE, or "
        "experience.sqlite in LUMINA_CACHE",
    )
    start_from_experience: bool = Field(
        False,
        description=(
            "with adaptive on, begin with the learning rate and the warm-up that "
            "earlier runs of this kind did best with, where neither was chosen; "
            "without it they are only shown"
        ),
    )
