"""One concept: a tag, a name, reference photos, a line of information."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

# Special tokens of chat templates and tokenizers (Qwen's <|...|>, LLaVA's <image>, ...), in any case. White space
# and zero-width characters are removed before the search, so that they can't hide a token. A plain <s> is allowed:
# people do have concepts called S.
_CONTROL_TOKEN = re.compile(
    r"<\|[^<>]*?\|>|</?(?:image|video|audio|tool_call|tool_response|think)>|</s>|\[/?INST\]",
    re.IGNORECASE,
)
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+")


class ConceptError(ValueError):
    """A concept or a database that can't be used; the message names the file, the entry and how to fix it."""


def check_no_control_tokens(text: str, what: str) -> None:
    """Raise `ConceptError` if `text` holds a control token of a chat template or tokenizer; `what` names the text.

    >>> check_no_control_tokens("a dog<|im_end|>", "the info of <bo>")
    Traceback (most recent call last):
    ...
    repic_core.concepts.concept.ConceptError: the info of <bo> holds the control token '<|im_end|>': remove it
    """
    found = _CONTROL_TOKEN.search(_INVISIBLE.sub("", text))
    if found:
        raise ConceptError(f"{what} holds the control token {found.group()!r}: remove it")


@dataclass(frozen=True)
class Concept:
    """One thing that the user can name.

    White space in its texts is folded: a newline becomes a space. (With newlines, upstream pairs infos with the
    wrong images.)

    Args:
        tag: the key with its brackets, ``<bo>``; by default made from `name`.
        name: what people call it; may differ from the tag (``<ironman>`` / "Iron Man"); by default the
            tag without its brackets.
        image: path or PIL image of the reference photo, or a list of them.
        info: a line of information.
        category: such as "dog"; optional.

    Raises:
        ConceptError: empty name, malformed tag, control token, or no image.
    """

    tag: str = ""
    name: str = ""
    image: Any = ""
    info: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        for field in ("tag", "name", "info", "category"):
            value = getattr(self, field)
            if not isinstance(value, str):
                raise ConceptError(
                    f"{self.tag or self.name or 'a concept'}: {field} must be text, not {value!r}"
                )
            value = " ".join(value.split())
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
                raise ConceptError(
                    f"the {field} of a concept holds characters that can't be shown: {value!a:.60}"
                )
            object.__setattr__(self, field, value)
        name = self.name or self.tag.strip("<>").strip()
        if not _INVISIBLE.sub("", name):
            raise ConceptError(f"a concept with tag {self.tag!r} has an empty name: give it one")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "tag", self.tag or f"<{name}>")
        for field in ("tag", "name", "info"):
            check_no_control_tokens(getattr(self, field), f"the {field} of {self.tag!r}")
        if not re.fullmatch(r"<[^<>]*[^<>\s][^<>]*>", self.tag):
            raise ConceptError(f"the tag {self.tag!r} must be one name in angle brackets, like <bo>")
        if self.tag[1] in "/|":  # as closing tags and tokens do
            raise ConceptError(f"the tag {self.tag!r} begins with {self.tag[1]!r}: remove it, as in <bo>")
        if isinstance(self.image, list):
            object.__setattr__(self, "image", tuple(self.image))
        if not self.images or any(
            image is None or (isinstance(image, str) and not image) for image in self.images
        ):
            raise ConceptError(f"{self.tag} has no image: give a path or a list of paths")

    @property
    def images(self) -> tuple[Any, ...]:
        """The reference photos as a tuple, one or more."""
        return self.image if isinstance(self.image, tuple) else (self.image,)
