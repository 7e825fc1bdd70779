"""Retrieved concepts confirmed by the model's own object consistency (OCT) before they enter a prompt.

The model is asked the question of its training, "Do these two images show the same object?", about the part of the
photo in which a concept was found and the concept's photo. R2P (arXiv 2503.18623) lets the model compare a photo
with what was retrieved, too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from repic_core.concepts.database import ConceptDatabase
from repic_core.io.images import open_image
from repic_core.models.parts import eval_mode
from repic_core.prompts import OCT_QUESTION, task_messages
from repic_core.retrieval.find import Found
from repic_core.retrieval.index import Hit
from repic_core.tasks import OCT


class Verifier:
    """Keeps of what `find.find_concepts` found the concepts that the model confirms; give it as `confirm`.

    Args:
        model, processor: from `loading.load_model`.
        database: has the photos of the concepts.
        least: least sureness (`sureness`) of a concept that is kept: 0 keeps those that the model thinks are more
            likely shown than not. `fitted_sureness` is stricter.
        batch_size: questions in a forward pass.

    Attributes:
        asked: how many questions the model was asked.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        database: ConceptDatabase,
        least: float = 0.0,
        batch_size: int = 16,
    ) -> None:
        self.model, self.processor, self.database = model, processor, database
        self.least, self.batch_size, self.asked = least, batch_size, 0

    def __call__(self, found: Sequence[Found]) -> list[Hit]:
        """The hits of `found` that are confirmed, in their order."""
        pairs = zip(found, self.sureness(found), strict=True)
        return [hit for (hit, _), sure in pairs if sure >= self.least]

    def sureness(self, found: Sequence[Found]) -> list[float]:
        """How sure the model is of each hit; of a concept with several photos, by the photo it is surest of."""
        pairs, owners = [], []
        for number, (hit, crop) in enumerate(found):
            images = self.database[hit.tag].images
            pairs += [(crop, open_image(image)) for image in images]
            owners += [number] * len(images)
        self.asked += 2 * len(pairs)
        surest = [-float("inf")] * len(found)
        answers = same_object(self.model, self.processor, pairs, self.batch_size)
        for number, sure in zip(owners, answers, strict=True):
            surest[number] = max(surest[number], sure)
        return surest


def same_object(
    model: Any, processor: Any, pairs: Sequence[tuple[Any, Any]], batch_size: int = 16
) -> list[float]:
    """How sure the model is that the two photos (PIL images) of each pair show the same object.

    That is the log-odds of "yes" over "no" as the first word of its answer: above 0 for yes. Each pair is asked in
    both orders, and the lower value counts, since one order alone can mislead: a small model may say yes to an
    empty region where it comes last, and no where it comes first.

    Raises:
        ValueError: the processor's tokenizer has no token for yes or for no.
    """
    both = [order for one, two in pairs for order in ((one, two), (two, one))]
    odds = [
        value
        for start in range(0, len(both), batch_size)
        for value in _log_odds(model, processor, both[start : start + batch_size])
    ]
    return [min(first, second) for first, second in zip(odds[::2], odds[1::2], strict=True)]


def _log_odds(model: Any, processor: Any, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
    """The log-odds of "yes" over "no" after the OCT question about each pair, in this order."""
    import torch

    yes, no = (_openings(processor.tokenizer, word) for word in ("yes", "no"))
    chats = [task_messages(pair, OCT_QUESTION, OCT, random.Random(0)) for pair in pairs]
    texts = [
        processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
    ]
    images = [list(pair) for pair in pairs]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to(model.device)
    with eval_mode(model), torch.inference_mode():
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float()
    return (logits[:, yes].logsumexp(-1) - logits[:, no].logsumexp(-1)).tolist()


def _openings(tokenizer: Any, word: str) -> list[int]:
    """The tokens that are `word`, written small or with a capital; prompts are padded on the left."""
    written = (tokenizer.encode(form, add_special_tokens=False) for form in (word, word.capitalize()))
    found = [ids[0] for ids in written if len(ids) == 1]
    if not found:
        raise ValueError(f"the tokenizer splits the answer {word!r}, so how sure the model is can't be read")
    return found
