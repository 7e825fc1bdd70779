"""Lessons as training batches: token ids, labels, and the pointers that the auxiliary losses of `pretrain` need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from repic_core.prompts import IMAGE_PLACEHOLDER
from repic_core.toyworld.lessons import Lesson, Look
from repic_core.toyworld.photos import SCENE_SIDE
from repic_core.toyworld.recognition import GRID, REFERENCE_GRID, TOKEN, pixel_values
from repic_core.toyworld.world import SYLLABLES

Pointer = tuple[int, int, int]


@dataclass
class Encoded:
    """One lesson: token ids, labels (-100 outside answers), and pointers (from, to, number of the drawing).

    A photo pointer goes from a token of a name in a reference's text to the first token of the reference's photo, a
    name pointer from a position that predicts a token of a name to this token in the reference's text, a
    look pointer from a position that predicts a token of what a thing is called to the visual token at its centre,
    an asks pointer from there to the words that say what is asked for. Of two photos that are compared, a name
    pointer goes from the position that predicts "yes" to the centre of the first, an apart pointer from the
    position that predicts "no" to the first token of all.
    """

    ids: list[int]
    labels: list[int]
    photos: list[Pointer]
    names: list[Pointer]
    looks: list[Pointer]
    asks: list[Pointer]
    apart: list[Pointer]


class Encoder:
    """Turns lessons into training batches for one processor."""

    def __init__(self, processor: Any) -> None:
        import torch

        self.processor, self.tokenizer = processor, processor.tokenizer
        token = self.tokenizer.convert_tokens_to_ids
        self.image_token, self.pad = token("<|image_pad|>"), self.tokenizer.pad_token_id
        self.syllables = torch.tensor(sorted({i for s in SYLLABLES for i in self.encode(f" <{s}>")[1:-1]}))
        numbers = [(self.encode(f"[{n}")[1], self.encode(f", {n}")[1]) for n in range(SCENE_SIDE + 1)]
        # (value, without or with a leading space) -> token
        self.numbers = torch.tensor(numbers)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def user_turn(self, problem: str, images: list[np.ndarray]) -> str:
        """The chat template's text of one user turn, with image pads in place of each placeholder."""
        pads = iter(images)

        def block(_: re.Match) -> str:
            high, wide = next(pads).shape[:2]
            return f"<|vision_start|>{'<|image_pad|>' * (high * wide // TOKEN**2)}<|vision_end|>"

        problem = re.sub(IMAGE_PLACEHOLDER, block, problem)
        return f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"

    def lesson(self, lesson: Lesson) -> Encoded:
        """A lesson as tokens, labels and pointers."""
        found = Encoded([], [], [], [], [], [], [])
        references: dict[str, list[int]] = {}
        used = 0
        for turn, (problem, answer) in enumerate(lesson.turns):
            images = lesson.images[used : used + problem.count(IMAGE_PLACEHOLDER)]
            used += len(images)
            text = f"{chr(10) if found.ids else ''}{self.user_turn(problem, images)}"
            coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            prompt = coded["input_ids"]
            if not found.ids:
                references = self._references(prompt, lesson)
                found.photos = self._photos(prompt, references, lesson)
            first, start = len(found.ids), len(found.ids) + len(prompt)
            found.ids += prompt
            found.labels += [-100] * len(prompt)
            asked: list[int] = []
            if lesson.asked:
                begin = text.rindex(lesson.asked[turn])
                asked = [first + i for i in _tokens_of(coded, begin, begin + len(lesson.asked[turn]))]
            if lesson.compared:
                one, two = lesson.compared[turn]
                centre = first + prompt.index(self.image_token) + REFERENCE_GRID**2 // 2
                found.names += [(start - 1, centre, one.number)] if one is two else []
                found.apart += [(start - 1, 0, one.number)] if one is not two else []
            self._answer(found, answer, lesson.looks[turn], references, asked, start)
        return found

    def _references(self, prompt: list[int], lesson: Lesson) -> dict[str, list[int]]:
        """For each tag, the positions of its tokens in the first place where the prompt has it."""
        places = {}
        for name in lesson.names:
            ids = self.encode(f" <{name}>")
            at = next(i for i in range(len(prompt)) if prompt[i : i + len(ids)] == ids)
            places[f"<{name}>"] = list(range(at, at + len(ids)))
        return places

    def _photos(self, prompt: list[int], references: dict[str, list[int]], lesson: Lesson) -> list[Pointer]:
        """From each token of a reference's tag to the first token of the photo before it."""
        pointers = []
        for name, drawing in lesson.names.items():
            positions = references[f"<{name}>"]
            last = positions[0] - 1 - prompt[: positions[0]][::-1].index(self.image_token)
            pointers += [(at, last + 1 - REFERENCE_GRID**2, drawing.number) for at in positions]
        return pointers

    def _answer(
        self,
        found: Encoded,
        answer: str,
        looks: list[Look],
        references: dict[str, list[int]],
        asked: list[int],
        start: int,
    ) -> None:
        """Add an answer, which begins at token `start`, and its pointers to what is `found`."""
        coded = self.tokenizer(f"{answer}<|im_end|>", add_special_tokens=False, return_offsets_mapping=True)
        # The last image before the answer: of a scene, whose tokens are all that precede.
        last = len(found.ids) - 1 - found.ids[::-1].index(self.image_token)
        scene = last + 1 - GRID**2
        cursor = 0
        for look in looks:
            begin = answer.lower().index(look.called.lower(), cursor)
            cursor = begin + len(look.called)
            tokens = _tokens_of(coded, begin, cursor)
            number = look.drawing.number
            if look.token is not None:
                centre = scene + look.token[0] * GRID + look.token[1]
                found.looks += [(start + i - 1, centre, number) for i in tokens]
            found.asks += [(start + i - 1, place, number) for i in tokens for place in asked]
            if look.called in references:
                # A tag without a space before it has other first tokens: its syllables and ">" are the same.
                own = references[look.called]
                found.names += [(start + i - 1, place, number) for i, place in zip(tokens, own, strict=True)]
        found.ids += coded["input_ids"]
        found.labels += coded["input_ids"]

    def batch(self, lessons: list[Lesson]) -> dict[str, Any]:
        """Model inputs (right-padded), `labels` (batch, length), and the pointers `photos`, `names`,
        `looks`, `asks` and `apart` (n, 4): the row, then as in `Encoded`."""
        import torch

        rows = [self.lesson(lesson) for lesson in lessons]
        length = max(len(row.ids) for row in rows)

        def padded(lists: list[list[int]], value: int) -> Any:
            return torch.tensor([numbers + [value] * (length - len(numbers)) for numbers in lists])

        def with_row(pointers: list[list[Pointer]]) -> Any:
            found = [(number, *pointer) for number, some in enumerate(pointers) for pointer in some]
            return torch.tensor(found).view(-1, 4)

        ids = padded([row.ids for row in rows], self.pad)
        return {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            "mm_token_type_ids": (ids == self.image_token).long(),
            "labels": padded([row.labels for row in rows], -100),
            "photos": with_row([row.photos for row in rows]),
            "names": with_row([row.names for row in rows]),
            "looks": with_row([row.looks for row in rows]),
            "asks": with_row([row.asks for row in rows]),
            "apart": with_row([row.apart for row in rows]),
            **pixel_values(
                self.processor.image_processor, [image for lesson in lessons for image in lesson.images]
            ),
        }


def _tokens_of(coded: Any, begin: int, end: int) -> list[int]:
    """The numbers of the tokens that have some of the characters `begin` to `end` (exclusive)."""
    return [i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < end and b > begin and b > a]
