"""Answers as OpenAI's API forms them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from lumina.infer.serving.bodies import Asked
from lumina.infer.serving.request import Problem


@dataclass
class Form:
    """The objects that answer one body.

    Attributes:
        model: name of the model.
        asked: the body's requests.
    """

    model: str
    asked: Asked
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        kind = "chatcmpl" if self.asked.chat else "cmpl"
        self.id = f"{kind}-{uuid.uuid4().hex}"

    def whole(self, texts: list[str], reasons: list[str]) -> dict[str, Any]:
        """All answers in one object."""
        kind = "chat.completion" if self.asked.chat else "text_completion"
        choices = [
            self._choice(index, self._message(text), reason)
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return self._object(kind, choices) | {"usage": self.usage()}

    def begin(self) -> list[dict[str, Any]]:
        """What a stream begins with: of a conversation, the role."""
        if not self.asked.chat:
            return []
        return [self._piece(0, {"delta": {"role": "assistant", "content": ""}}, None)]

    def piece(self, index: int, text: str, reason: str) -> list[dict[str, Any]]:
        """A piece of one answer, and its end, as objects of a stream."""
        held = []
        if text:
            said = {"delta": {"content": text}} if self.asked.chat else {"text": text}
            held.append(self._piece(index, said, None))
        if reason:
            end: dict[str, Any] = {"delta": {}} if self.asked.chat else {"text": ""}
            held.append(self._piece(index, end, reason))
        return held

    def end(self) -> list[dict[str, Any]]:
        """What a stream ends with: the numbers of tokens, if they were asked for."""
        if not self.asked.usage:
            return []
        return [self._object(self._kind, []) | {"usage": self.usage()}]

    def usage(self) -> dict[str, int]:
        """Numbers of tokens."""
        prompts = sum(len(one.prompt) for one in self.asked.requests)
        answers = sum(len(one.new_ids) for one in self.asked.requests)
        return {
            "prompt_tokens": prompts,
            "completion_tokens": answers,
            "total_tokens": prompts + answers,
        }

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.asked.chat else "text_completion"

    def _piece(
        self, index: int, said: dict[str, Any], reason: str | None
    ) -> dict[str, Any]:
        return self._object(self._kind, [self._choice(index, said, reason)])

    def _message(self, text: str) -> dict[str, Any]:
        if self.asked.chat:
            return {"message": {"role": "assistant", "content": text}}
        return {"text": text}

    @staticmethod
    def _choice(index: int, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def error_object(problem: Problem) -> dict[str, Any]:
    """Why there is no answer."""
    return {
        "error": {
            "message": problem.text,
            "type": problem.kind,
            "param": None,
            "code": problem.code,
        }
    }
