"""What the sections of a configuration have in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


def number_as_word(value: object) -> object:
    """The word "8" for the number 8, where choices are words: in YAML an 8 is a number.

    True and False stay what they are, and are refused.
    """
    return str(value) if type(value) is int else value


class Section(BaseModel):
    """Options that belong together; unknown keys are refused, values are checked.

    A leaf name is unique over all sections: it is the option on the command line (in
    kebab-case), the key in YAML and the keyword in Python. `None` means "decide for
    me"; the Plan says what was decided and why.

    Attributes:
        describes_model: whether the options say what the model is, so that a resumed
            run keeps them as they are.
        routes_by: the option that makes a model route tokens; "": none of these does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    describes_model: ClassVar[bool] = False
    routes_by: ClassVar[str] = ""
