"""What a plan depends on. In goes a recipe with the caller's wishes; out come `Settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repic_core.concepts.concept import Concept
from repic_core.io.files import read_json
from repic_core.io.images import training_size
from repic_core.models.sizes import sized_config
from repic_core.prompts import caption_problem
from repic_core.training.recipe import TuneArguments, read_recipe, recipe_values

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
SHARDINGS = ("none", "zero2", "fsdp2")
BUCKET = 500_000_000  # elements of DeepSpeed's reduce bucket, its default
# A plan is made where there is no card and no launcher, so these are read from the recipe's values instead.
NOT_HERE = {"bf16": False, "deepspeed": None, "fsdp": None, "fsdp_config": None, "output_dir": "plan"}
CHARACTERS = 4  # of the prompt's text for each token, as of English with Qwen's tokenizer; assumed
INFO = "x" * 120  # what a prompt says about a concept, of the authors' length


@dataclass(frozen=True)
class Card:
    """A GPU: dense bf16 TFLOP/s with fp32 accumulation, GB/s, and GiB that torch sees."""

    name: str
    tflops: float
    bandwidth: float
    gib: float


# Rates: NVIDIA's datasheets "A40", "A100 Tensor Core GPU" (80GB SXM), "H100 Tensor Core GPU" and "H200 Tensor
# Core GPU" (SXM; given with sparsity, halved); whitepapers "Ada GPU Architecture" and "Ampere GA102" (appendix A).
CARDS = {
    "a40": Card("A40 48GB", 149.7, 696, 44.4),
    "a100": Card("A100 80GB", 312, 2039, 79.2),
    "h100": Card("H100 80GB", 989.4, 3350, 79.2),
    "h200": Card("H200 141GB", 989.4, 4800, 139.8),
    "rtx4090": Card("RTX 4090 24GB", 165.2, 1008, 23.6),
    "rtx3090": Card("RTX 3090 24GB", 71, 936, 23.6),
}


@dataclass(frozen=True)
class Step:
    """One GPU's share of a step: a policy pass takes `prompts` of `prompt` tokens (`photos` of them of images),
    each with `generations` completions of `completion` tokens; the rollout has the rows of `rounds` passes, in
    groups of `group` (0: `generations`) completions, and is used `iterations` times."""

    prompts: int
    prompt: int
    photos: int
    generations: int
    completion: int
    rounds: int = 1
    group: int = 0
    iterations: int = 1
    bf16: bool = True
    checkpointing: bool = False
    reference: bool = True  # the KL term's pass
    old_policy: bool = False  # a pass for the probabilities under which the completions were sampled
    photos_once: bool = True  # the photos' features are computed once for all passes
    rollout: bool = True  # captions are made by this process, not by vLLM
    accumulates: bool = False  # gradients of earlier passes are held while a pass runs
    gpu: bool = True
    gpus: int = 1
    sharding: str = "none"  # one GPU, or DDP; "zero2" (DeepSpeed); "fsdp2"
    bucket: int = BUCKET

    @property
    def rollout_prompts(self) -> int:
        rows = self.prompts * self.generations * self.rounds
        return -(-rows // (self.group or self.generations))


@dataclass(frozen=True)
class Settings:
    """A step, decided: `config` is the model's, `trainer` TRL's `GRPOConfig`, `images` the photos of a prompt."""

    recipe: str
    model: str
    config: Any
    tune: TuneArguments
    trainer: Any
    step: Step
    images: int
    card: Card = CARDS["h100"]


def resolve(
    recipe: str | Path,
    overrides: dict[str, Any],
    model: str | Path | None = None,
    references: int = 4,
    side: int = 512,
    completion: int | None = None,
    gpus: int = 1,
    sharding: str | None = None,
    card: str = "h100",
) -> Settings:
    """The settings of a recipe with `overrides`; arguments and errors as of `plan.plan`."""
    from trl import GRPOConfig

    values = recipe_values(recipe) | overrides
    if card not in CARDS:
        raise ValueError(f"card: {card!r} is not one of {', '.join(CARDS)}")
    _at_least(0, "references", references)
    _at_least(1, "gpus", gpus)
    _at_least(1, "completion", completion)
    zero = _deepspeed(values.get("deepspeed")).get("zero_optimization") or {}
    fsdp = values.get("fsdp_config") or {}
    sharding = sharding or _sharding_of(zero.get("stage", 0), values.get("fsdp"))
    if sharding not in SHARDINGS:
        raise ValueError(f"sharding: {sharding!r} is not one of {', '.join(SHARDINGS)}")
    name = str(model or values.get("model") or DEFAULT_MODEL)
    config = sized_config(name)
    batch = int(values.get("per_device_train_batch_size") or GRPOConfig.per_device_train_batch_size)
    # There is one process here, in which the completions of all GPUs make whole groups.
    everywhere = {"per_device_train_batch_size": batch * gpus}
    try:
        tune, trainer = read_recipe(recipe, GRPOConfig, overrides | NOT_HERE | everywhere)
    except ValueError as error:
        if "must be divisible by num_generations" not in str(error):
            raise
        raise ValueError(
            f"{recipe}: {gpus} GPU(s) with per_device_train_batch_size {batch} hold no whole group of completions: "
            "give the number of GPUs that the recipe is for (--gpus), or a larger per_device_train_batch_size"
        ) from None
    trainer.per_device_train_batch_size, group = batch, trainer.num_generations
    together = min(group, batch) if tune.shared_prefix else 1
    images = references + 1
    shown = training_size((side, side), images)[0] if tune.published_resize else side
    photos = photo_tokens(config, shown, tune.max_pixels, tune.min_pixels) * images
    passes, rounds = trainer.gradient_accumulation_steps, trainer.steps_per_generation or 1
    corrected = trainer.use_vllm and trainer.vllm_importance_sampling_correction
    step = Step(
        prompts=max(1, batch // together),
        prompt=text_tokens(references) + photos,
        photos=photos,
        generations=together,
        completion=completion or trainer.max_completion_length,
        rounds=rounds,
        group=group if tune.shared_prefix else 1,
        iterations=trainer.num_iterations,
        bf16=bool(values.get("bf16")),
        checkpointing=bool(trainer.gradient_checkpointing or fsdp.get("activation_checkpointing")),
        reference=trainer.beta != 0,
        old_policy=bool(corrected or passes % (rounds * trainer.num_iterations)),  # as TRL decides
        photos_once=tune.shared_prefix and sharding == "none",  # `SharedPrefixGRPOTrainer._frozen_features`
        rollout=not trainer.use_vllm,
        accumulates=sharding == "none" and passes > 1,
        gpus=gpus,
        sharding=sharding,
        bucket=_bucket(zero.get("reduce_bucket_size"), config.get_text_config().hidden_size),
    )
    return Settings(str(recipe), name, config, tune, trainer, step, images, CARDS[card])


def _at_least(least: int, name: str, number: int | None) -> None:
    if number is not None and number < least:
        raise ValueError(f"{name}: {number} must be at least {least}")


def _deepspeed(given: Any) -> dict[str, Any]:
    """A recipe's DeepSpeed settings: an object, or the path of a JSON file with one."""
    found = read_json(Path(given), ValueError) if isinstance(given, str) else given or {}
    if not isinstance(found, dict):
        raise ValueError(
            f"deepspeed: {given!r} must be an object of settings, or the path of a JSON file with one"
        )
    return found


def _bucket(size: Any, hidden: int) -> int:
    """Elements of DeepSpeed's reduce bucket; "auto" as in transformers' `HfTrainerDeepSpeedConfig`."""
    if size == "auto":
        return hidden * hidden
    return BUCKET if size is None else int(float(size))


def _sharding_of(stage: int, fsdp: Any) -> str:
    """The sharding that a recipe asks for by DeepSpeed's `stage` or by `fsdp`."""
    if fsdp:
        return "fsdp2"
    if stage not in (0, 2):
        raise ValueError(f"deepspeed: stage {stage} is not planned here; give sharding none, zero2 or fsdp2")
    return "zero2" if stage == 2 else "none"


def photo_tokens(config: Any, side: int, max_pixels: int | None = None, min_pixels: int | None = None) -> int:
    """Image tokens of a square photo of `side` pixels, as Qwen's processor resizes it.

    Raises:
        ValueError: `side` is no positive number.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    if side < 1:
        raise ValueError(f"side: {side} must be a positive number of pixels")
    factor = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    limit = max_pixels or 16384 * factor**2  # the processors' own
    least = min_pixels or 4 * factor**2
    height, width = smart_resize(side, side, factor, min_pixels=least, max_pixels=limit)
    return height * width // factor**2


def text_tokens(references: int) -> int:
    """Tokens of the published prompt's text, about: one for `CHARACTERS`, and 30 for the chat template."""
    concepts = [Concept(name=f"concept {i}", image="photo.png", info=INFO) for i in range(references)]
    text = str(caption_problem(concepts, "Describe this image."))
    return 30 + 4 * (references + 1) + len(text) // CHARACTERS
