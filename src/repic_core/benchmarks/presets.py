"""What the benchmarks run on: a model (the toy, or random weights in Qwen's sizes), prompts and a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repic_core.io.extras import need
from repic_core.io.kit import kit_path
from repic_core.models.sizes import qwen2_5_vl_config

# Prompts per step, completions per prompt, tokens per completion, references per prompt, the side of each photo in
# pixels (0: the toy world's sizes), and whether activations are recomputed. Otherwise stock TRL's policy pass, as
# planned, needs 91 GiB (3B) and 129 GiB (7B).
LARGE = {"prompts": 1, "generations": 8, "completion": 128, "references": 4, "side": 512, "checkpointing": 1}
PRESETS: dict[str, dict[str, int]] = {
    "toy": {"prompts": 6, "generations": 8, "completion": 30, "references": 4, "side": 0},
    "cpu": {"prompts": 1, "generations": 8, "completion": 64, "references": 4, "side": 280},
    "3b-random": LARGE,
    "7b-random": LARGE,
}


def build_model(preset: str) -> tuple[Any, Any]:
    """The preset's model and processor: the toy base, or random weights with the toy's tokenizer (bf16 on CUDA)."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    if preset == "toy":
        folder = kit_path("assets/toy-base")
        processor = AutoProcessor.from_pretrained(folder)
        processor.tokenizer.padding_side = "left"
        return AutoModelForImageTextToText.from_pretrained(folder), processor
    from repic_core.toyworld.model import make_processor

    processor = make_processor()
    processor.image_processor.patch_size = 14
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    with torch.device("cuda" if cuda else "cpu"):
        model = Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(preset, processor.tokenizer))
    torch.set_default_dtype(torch.float32)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def build_dataset(folder: Path, prompts: int, references: int, side: int, **_: Any) -> Any:
    """Caption prompts with photos of noise, `side` pixels wide and high or, for 0, in the toy world's sizes."""
    import numpy as np
    from PIL import Image

    from repic_core.concepts.concept import Concept
    from repic_core.data.rows import TrainingExample, to_dataset
    from repic_core.prompts import caption_problem
    from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE

    rng = np.random.default_rng(0)
    rows = []
    for number in range(prompts):
        names = []
        for photo in range(references + 1):
            size = side or (SCENE_SIDE if photo == references else REFERENCE_SIDE)
            pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
            names.append(f"{number}_{photo}.png")
            Image.fromarray(pixels).save(folder / names[-1])
        concepts = [Concept(name=f"mira{i}", image=n, info="a little toy") for i, n in enumerate(names[:-1])]
        problem = caption_problem(concepts, "Give a personalized caption of this image.")
        rows.append(TrainingExample(tuple(names), problem, "<mira0>", "yes_no_name"))
    return to_dataset(rows * 100, folder, 0)  # each step takes all of `rows`


def prompt_ids(processor: Any, row: dict[str, Any]) -> list[int]:
    """The token ids of a row's prompt, those of its photos included."""
    from trl.data_utils import prepare_multimodal_messages

    messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
    return processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]


def step_arguments(settings: dict[str, int], out: str, **changes: Any) -> tuple[Any, Any]:
    """The toy recipe with a preset's `settings`, as (`TuneArguments`, `GRPOConfig`): LoRA r 64, captions are greedy
    and run to the full length. `changes` are single values of the recipe."""
    import torch
    from trl import GRPOConfig

    from repic_core.training.recipe import read_recipe

    values = {
        "output_dir": out,
        "per_device_train_batch_size": settings["prompts"] * settings["generations"],
        "num_generations": settings["generations"],
        "max_completion_length": settings["completion"],
        "generation_kwargs": {"do_sample": False, "min_new_tokens": settings["completion"]},
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": bool(settings.get("checkpointing")),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "lora_r": 64,
        "lora_alpha": 128,
        "max_steps": 1000,
        "shuffle_dataset": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    tune, config = read_recipe("toy", GRPOConfig, values | changes)
    config.remove_unused_columns = False
    return tune, config


def build_trainer(preset: str, contender: str, dataset: Any, tune: Any, config: Any) -> Any:
    """A trainer on the preset's model, before its first step; rewards alternate between 0 and 1.

    Args:
        contender: ``stock`` (TRL and `transformers` as they are), ``stock+vision`` (TRL with the kit's vision
            path), ``shared`` (`SharedPrefixGRPOTrainer`) or ``prefix_grouper`` (with that package's attention).
        tune, config: from `step_arguments`.

    Raises:
        KeyError: an unknown contender.
    """
    from trl import GRPOTrainer

    from repic_core.models.vision import use_batched_vision
    from repic_core.training.recipe import prepare_tuning
    from repic_core.training.trainer import SharedPrefixGRPOTrainer

    trainers = {
        "stock": GRPOTrainer,
        "stock+vision": GRPOTrainer,
        "shared": SharedPrefixGRPOTrainer,
        "prefix_grouper": SharedPrefixGRPOTrainer,
    }
    trainer_class = trainers[contender]
    model, processor = build_model(preset)
    if tune.tune == "full" or tune.load_in_4bit:
        folder = Path(config.output_dir) / "model"
        model, processor = _from_files(model, processor, folder, tune.load_in_4bit)
    if contender != "stock":
        use_batched_vision(model)
    if contender == "prefix_grouper":
        _use_prefix_grouper()
    trainer = trainer_class(
        model=model,
        reward_funcs=[_alternating],
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=prepare_tuning(model, processor, tune),
    )
    never = [model.config.image_token_id, model.config.video_token_id]
    trainer.generation_config.suppress_tokens = never  # random weights do choose them, and stock then fails
    return trainer


def make_ready(trainer: Any) -> None:
    """What `Trainer.train` does before its first step, as far as single steps need it."""
    trainer.create_optimizer_and_scheduler(1000)
    trainer.model.train()
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    trainer.current_gradient_accumulation_steps = 1


def _alternating(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward of 0, 1, 0, 1, ..."""
    return [float(i % 2) for i in range(len(completions))]


def _from_files(model: Any, processor: Any, folder: Path, load_in_4bit: bool = False) -> tuple[Any, Any]:
    """The same model and processor, loaded from `folder`: full tuning reads its reference model from there, and
    what is quantised is quantised while it is loaded."""
    from repic_core.models.loading import load_model

    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model, processor = load_model(folder, load_in_4bit=load_in_4bit)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def _use_prefix_grouper() -> None:
    """Let the package ``prefix_grouper`` compute the packed row's attention; it takes one prompt per row."""
    import torch

    need("prefix_grouper", extra="benchmark")
    from prefix_grouper import PrefixGrouper
    from torch.nn.functional import scaled_dot_product_attention

    from repic_core.training import shared_prefix

    last_layout: Any = None
    grouper: Any = None

    def attention(query: Any, key: Any, value: Any, layout: Any, scaling: float) -> Any:
        nonlocal last_layout, grouper

        def attend(q: Any, k: Any, v: Any, is_token: Any) -> Any:
            ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            mask = is_token[:, None, None].bool() & ones.tril(k.shape[2] - q.shape[2])
            grouped = k.shape[1] != q.shape[1]
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=grouped)
            return out.transpose(1, 2)

        if layout is not last_layout:  # all layers of a pass have the same layout
            segments = (layout.segment_places // layout.segment_tokens.shape[1]).bincount()
            lengths = [len(layout.prompt_places), *segments.tolist()]
            last_layout, grouper = layout, PrefixGrouper([lengths], device=query.device)
        return grouper.forward(attend, query, key, value)

    shared_prefix.group_attention = attention
