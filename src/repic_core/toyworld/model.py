"""The toy base: a genuine, very small Qwen2.5-VL with its own tokenizer and processor.

The toy world's language is small. So each of its frequent phrases (", at the top left is", the published caption
questions, ...) is one token, names are spelled by syllable, and everything else falls back to byte-level BPE. Any
text can be encoded.
"""

from __future__ import annotations

from typing import Any

from repic_core.prompts import (
    CAPTION_QUESTIONS,
    ICT_SUFFIXES,
    OCT_QUESTION,
    OCT_SUFFIX,
    QUERY_PREFIX,
    VLT_SUFFIX,
)
from repic_core.toyworld.draw import BACKGROUNDS, COLORS, PATTERNS, PLACES, REFERENCE_SIZE, SCENE_SIZE, SHAPES
from repic_core.toyworld.world import GENERIC_INFO, SYLLABLES

PATCH = 8  # pixels
TOKEN = 16  # pixels; 2 x 2 patches make one visual token
HIDDEN = 128
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
    *(f" {PLACE_QUESTION.format(place=place)}" for place in PLACES),
    "Give the bounding box of",
    "This is",
    *(f"On a {background}" for background in BACKGROUNDS),
    *(f", at the {place} is" for place in PLACES),
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
    words = [*SHAPES, *COLORS, *PATTERNS, "a", "toy", "little", "at", "the", "is", "top", "bottom"]
    words += ["left", "right"]
    corpus = [f" {word}" for word in words]
    corpus += [f" <{syllable}>" for syllable in SYLLABLES] + [f"<{syllable}>" for syllable in SYLLABLES]
    corpus += [f"[{i}, {i}]" for i in range(SCENE_SIZE + 1)]
    corpus += ["user\n", "assistant\n", "system\n", "yes", "no"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
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
        "size": {"shortest_edge": REFERENCE_SIZE**2, "longest_edge": SCENE_SIZE**2},
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
    """A new toy model of about 1.2M parameters.

    `rope_theta` is 1e4, not 1e6: enough for prompts of a few hundred tokens, and the low frequencies stay free for
    matching by content.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    token = processor.tokenizer.convert_tokens_to_ids
    depth = 3
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 8) * 8,
            "hidden_size": HIDDEN,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
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
        vision_config={
            "depth": depth,
            "hidden_size": 80,
            "intermediate_size": 192,
            "num_heads": 5,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": list(range(depth)),
            "initializer_range": 0.04,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
