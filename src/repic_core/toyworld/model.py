"""The toy base: a genuine, very small Qwen2.5-VL with its own tokenizer and processor.

The toy world's language is small. So each of its frequent phrases ("To the right of it is", the published caption
questions, ...) is one token, names are spelled by syllable, and everything else falls back to byte-level BPE. Any
text can be encoded.
"""

from __future__ import annotations

import re
from typing import Any

from repic_core.prompts import (
    CAPTION_QUESTIONS,
    ICT_SUFFIXES,
    OCT_QUESTION,
    OCT_SUFFIX,
    QUERY_PREFIX,
    VLT_SUFFIX,
)
from repic_core.toyworld.atlas import COLORS
from repic_core.toyworld.drawings import KINDS, OTHER_KIND
from repic_core.toyworld.grammar import FORMS
from repic_core.toyworld.photos import BACKGROUNDS, PLACES, REFERENCE_SIDE, SCENE_SIDE
from repic_core.toyworld.recognition import HIDDEN, PATCH, vision_config
from repic_core.toyworld.world import GENERIC_INFO, SYLLABLES

LAYERS = 5
WHO_QUESTION, DESCRIBE_QUESTION = "Who is this?", "Describe this image."
PLACE_QUESTION = "Who is at the {place}?"

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def form_phrases() -> list[str]:
    """The parts of the grammar's sentences that have several words, with a space before them and, where they can
    begin a caption, without."""
    phrases: dict[str, None] = {}
    for form in FORMS:
        parts = [part.strip(" .") for part in re.split(r"\{\w+\}", form)]
        for number, part in enumerate(parts):
            if " " in part:
                phrases[f" {part}"] = None
                if number == 0:
                    phrases[part] = None
    return list(phrases)


PHRASES = (
    "Name:",
    ", Info:",
    QUERY_PREFIX,
    f" {GENERIC_INFO}",
    f" {OCT_SUFFIX}",
    f" {VLT_SUFFIX}",
    *(f" {suffix}" for suffix, _ in ICT_SUFFIXES if suffix),
    *(f" {q}" for q in dict.fromkeys(q for group in CAPTION_QUESTIONS.values() for q in group)),
    OCT_QUESTION,
    f" {WHO_QUESTION}",
    f" {DESCRIBE_QUESTION}",
    *(f" {PLACE_QUESTION.format(place=place)}" for row in PLACES for place in row),
    "Give the bounding box of",
    "This is",
    *form_phrases(),
    *(f" {background}" for background in BACKGROUNDS),
)
# Qwen's format, but with the line break between messages instead of after each. Otherwise a trainer that scores the
# whole assistant turn would teach the break after <|im_end|>, which no generation ever reaches.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif block['type'] == 'text' %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}<|im_start|>assistant\n{% endif %}"
)


def make_processor() -> Any:
    """A `Qwen2_5_VLProcessor` that leaves toy images as they are and shrinks larger photos."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = Tokenizer(models.BPE())
    one = "[bdfgjklmnprstvwz][aeiou]"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{one}(?=(?:{one})*>)"), "isolated"),
            pre_tokenizers.Split(Regex(r" ?<| ?\[| ?\p{L}+| ?\d+|>|[^\s\p{L}\d<>]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [*COLORS, *" ".join([*KINDS.values(), OTHER_KIND]).split(), *" ".join(sum(PLACES, ())).split()]
    words += ["a", "an", "A", "An", "person", "in", "is", "at", "the", "it", "There", "This"]
    corpus = [f" {word}" for word in words]
    corpus += [f" <{syllable}>" for syllable in SYLLABLES] + [f"<{syllable}>" for syllable in SYLLABLES]
    corpus += [f"[{i}, {i}]" for i in range(SCENE_SIDE + 1)]
    corpus += ["user\n", "assistant\n", "system\n", "yes", "no"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(corpus * 20, trainer)
    tokenizer.add_tokens([AddedToken(p, normalized=False, special=False) for p in PHRASES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="left",
        model_max_length=1024,
    )
    sizes = {
        "size": {"shortest_edge": REFERENCE_SIDE**2, "longest_edge": SCENE_SIDE**2},
        "patch_size": PATCH,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(processor: Any, seed: int = 0) -> Any:
    """A new toy model of about 2.2M parameters.

    `rope_theta` is 1e4, not 1e6: enough for prompts of a few hundred tokens, and the low frequencies stay free for
    matching by content.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    token = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 8) * 8,
            "hidden_size": HIDDEN,
            "intermediate_size": 320,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "initializer_range": 0.04,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config=vision_config(),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        # Larger than what the layers add at first, so that a syllable can be copied from its reference.
        model.get_input_embeddings().weight.mul_(5)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
