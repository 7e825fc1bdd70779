"""Lessons as training batches: token ids, labels, and the pointers that the auxiliary losses of `pretrain` need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from repic_core.prompts import IMAGE_PLACEHOLDER
from repic_core.toyworld.draw import SCENE_SIZE
from repic_core.toyworld.lessons import Lesson
from repic_core.toyworld.model import TOKEN
from repic_core.toyworld.pretrain_vision import ATTRIBUTES, attribute_indices
from repic_core.toyworld.recognition import pixel_values
from repic_core.toyworld.world import SYLLABLES


@dataclass
class Encoded:
    """One lesson: token ids, labels (-100 outside answers), pointers and box pointers.

    A pointer is (from, to, shape, colour, pattern).
    """

    ids: list[int]
    labels: list[int]
    pointers: list[tuple[int, ...]]
    box_pointers: list[tuple[int, ...]]


class Encoder:
    """Turns lessons into training batches for one processor."""

    def __init__(self, processor: Any) -> None:
        import torch

        self.processor, self.tokenizer = processor, processor.tokenizer
        token = self.tokenizer.convert_tokens_to_ids
        self.image_token, self.pad = token("<|image_pad|>"), self.tokenizer.pad_token_id
        self.open, self.close = self._one(" <"), self._one(">")
        self.attribute_words = {self._one(f" {word}") for group in ATTRIBUTES for word in group}
        self.syllables = torch.tensor(sorted({i for s in SYLLABLES for i in self.encode(f" <{s}>")[1:-1]}))
        numbers = [(self.encode(f"[{n}")[1], self.encode(f", {n}")[1]) for n in range(SCENE_SIZE + 1)]
        # (value, without or with a leading space) -> token
        self.numbers = torch.tensor(numbers)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _one(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} should be one token of the toy tokenizer but is {len(ids)}")
        return ids[0]

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
        ids: list[int] = []
        labels: list[int] = []
        boxes: list[tuple[int, ...]] = []
        used = 0
        for turn, (problem, answer) in enumerate(lesson.turns):
            count = problem.count(IMAGE_PLACEHOLDER)
            text = self.user_turn(problem, lesson.images[used : used + count])
            prompt = self.encode(f"\n{text}" if ids else text)
            used += count
            reply = self.encode(f"{answer}<|im_end|>")
            if lesson.centres:
                toy, row, column = lesson.centres[turn]
                # Position of the first token of the reply.
                start = len(ids) + len(prompt)
                image = (ids + prompt).index(self.image_token)
                centre = image + row * (SCENE_SIZE // TOKEN) + column
                # "[", x1, ",", y1, ",", x2, ",", y2, "]": coordinates are predicted at "[" and at the commas.
                facts = attribute_indices(toy)
                boxes += [(start + q, centre, *facts) for q in range(0, len(reply) - 2, 2)]
            ids += prompt + reply
            labels += [i if i in self.attribute_words else -100 for i in prompt] + reply
        return Encoded(ids, labels, self._pointers(ids, labels, lesson), boxes)

    def _pointers(self, ids: list[int], labels: list[int], lesson: Lesson) -> list[tuple[int, ...]]:
        """From each position that predicts a token of a name in an answer to this token in the reference text."""
        toys = {tuple(self.encode(f" <{name}>")[1:-1]): toy for name, toy in lesson.targets.items()}
        source: dict[tuple[int, ...], int] = {}
        pointers = []
        for start in (i for i, token in enumerate(ids) if token == self.open):
            end = ids.index(self.close, start)
            name = tuple(ids[start + 1 : end])
            if labels[start] == -100:
                source.setdefault(name, start)
            elif name in source:
                facts = attribute_indices(toys[name])
                pointers += [(start + q, source[name] + 1 + q, *facts) for q in range(end - start)]
        return pointers

    def batch(self, lessons: list[Lesson]) -> dict[str, Any]:
        """Model inputs (right-padded), `labels` (batch, length), and `pointers` and `box_pointers` (n, 6): the row,
        then as in `Encoded`."""
        import torch

        rows = [self.lesson(lesson) for lesson in lessons]
        length = max(len(row.ids) for row in rows)

        def padded(lists: list[list[int]], value: int) -> Any:
            return torch.tensor([numbers + [value] * (length - len(numbers)) for numbers in lists])

        def with_row(pointers: list[list[tuple[int, ...]]]) -> Any:
            found = [(number, *pointer) for number, some in enumerate(pointers) for pointer in some]
            return torch.tensor(found).view(-1, 6)

        ids = padded([row.ids for row in rows], self.pad)
        return {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            "mm_token_type_ids": (ids == self.image_token).long(),
            "labels": padded([row.labels for row in rows], -100),
            "pointers": with_row([row.pointers for row in rows]),
            "box_pointers": with_row([row.box_pointers for row in rows]),
            **pixel_values(
                self.processor.image_processor, [image for lesson in lessons for image in lesson.images]
            ),
        }
