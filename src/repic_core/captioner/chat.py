"""A conversation about photos: what was shown and said before can be used in a later caption.

CoViP (Oh et al. 2026, arXiv 2602.03454) calls such memory contextual personalisation. Here it is the conversation
itself: all photos and texts stay in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept, check_no_control_tokens
from repic_core.io.images import open_for_model
from repic_core.models.answers import as_read
from repic_core.prompts import caption_messages


class Chat:
    """A conversation with the model of `captioner`. Concepts are introduced once, in any turn.

    >>> chat = Chat(captioner)  # doctest: +SKIP
    >>> chat.ask("Give a caption of the image.", "park.jpg", database.select("<bo>"))  # doctest: +SKIP
    >>> chat.ask("And who is here?", "beach.jpg")  # doctest: +SKIP
    >>> chat.ask("In which of the two photos is <bo>?")  # doctest: +SKIP

    Attributes:
        messages: the whole conversation, in the form of `prompts`; photos are opened.
    """

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.messages: list[dict[str, Any]] = []

    def ask(
        self, question: str, photo: Any = None, references: Sequence[Concept] = (), **generation: Any
    ) -> str:
        """The answer to `question`, about `photo` (path or PIL image) or, without one, about what was shown before.

        If anything fails, the conversation is as before.

        Args:
            references: concepts that are introduced before the question, each with its photos and line.
            generation: passed to ``model.generate``.

        Raises:
            ValueError: a photo can't be read (the message names it), a text holds a control token, or there is no
                photo although there are references, or although nothing was shown before.
        """
        turn = self._turn(question, photo, references)
        answer = self.captioner.answer([*self.messages, *turn], **generation)
        said = {"type": "text", "text": _plain(answer)}
        self.messages += [*turn, {"role": "assistant", "content": [said]}]
        return answer

    def _turn(self, question: str, photo: Any, references: Sequence[Concept]) -> list[dict[str, Any]]:
        if photo is None:
            if references or not self.messages:
                raise ValueError("the first turn, and one that introduces concepts, needs a photo")
            check_no_control_tokens(question, "the question")
            return [{"role": "user", "content": [{"type": "text", "text": question}]}]
        system = None if self.messages else self.captioner.system
        style = self.captioner.reference_style
        turn = caption_messages(photo, references, question, system, reference_style=style)
        for message in turn:
            for block in message["content"]:
                if block["type"] == "image":
                    block["image"] = open_for_model(block["image"])
        return turn


def _plain(answer: str) -> str:
    """An answer as it goes back into the prompt: as read, so that it opens no turn of its own."""
    return as_read(answer)[0]
