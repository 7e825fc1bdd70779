"""`SharedPrefixGRPOTrainer`: TRL's `GRPOTrainer`, in which every prompt and every photo is computed once.

The private names of TRL that the kit relies on (tests/training/test_trainer.py fails if a release
after trl 1.16 changes them):

- overridden: `_tokenize_prompts`, `_generate_single_turn`, `_generate_and_score_completions`, `_prepare_inputs`,
  `_compute_loss`, `_get_per_token_logps_and_entropies`;
- read: `_step`, `_buffered_inputs`, and the fused head of `trl.trainer.utils.add_fused_lm_head`;
- `vllm_rollouts` wraps `VLLMGeneration._place_features`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from trl import GRPOTrainer

from repic_core.models.families import FAMILIES
from repic_core.models.parts import conditional_model, rope_positions
from repic_core.models.vision import image_features, select_features
from repic_core.training.groups import IMAGE_FIELDS, find_groups, split_by_group
from repic_core.training.photos import EachPhotoOnce, decoded_once, undecoded
from repic_core.training.rollout import shared_generate
from repic_core.training.shared_prefix import (
    first_of_each,
    pack,
    packed_log_probs,
    select_patches,
)
from repic_core.training.vllm_rollouts import ban_tokens, check_photo_sizes, keep_base

logger = logging.getLogger(__name__)


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with each group's prompt computed once in the rollout, the reference pass and the policy pass.

    Arguments, samples, loss and metrics are the same. The rows of a batch that share a prompt (a group, or the part
    of it in the batch) are packed after it. Each photo is opened, resized and patched once a step. Features of a
    frozen vision tower are computed once and used in all passes. vLLM rollouts are TRL's own.

    Three things differ from TRL. Video tokens can't be sampled (TRL bans only image tokens). Dropout is drawn once
    for the prompt, not once per completion. And where a generated batch is split, each part gets whole groups. So
    an optimizer step may hold other rows, and loss types that normalize by part (``bnpo``) weigh them differently.

    Where the packed pass is not tested (another model family, sliding windows, tools, a mixture of experts, beam
    search, generation without a plain cache), this is TRL's own trainer, with one warning.
    """

    published_resize = False  # whether photos are resized as in the authors' training (`photos.decoded_once`)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._same_as_reference: bool | None = None
        reason = self._unsupported()
        self.shares_prefix = reason is None
        if reason:
            logger.warning("shared prefix: not used (%s); prompts are computed once per completion", reason)
            return
        self._ban_photo_tokens()
        if self.use_vllm:
            check_photo_sizes(self.vllm_generation, self.processing_class.image_processor)
            keep_base(self.vllm_generation)
        self.train_dataset = undecoded(self.train_dataset)
        self.eval_dataset = undecoded(self.eval_dataset)
        if self.args.per_device_train_batch_size % self.num_generations:
            logger.warning(
                "shared prefix: per_device_train_batch_size %d is not a multiple of num_generations %d, so groups "
                "are spread over micro-batches or processes, and a prompt is computed in up to %d of them",
                self.args.per_device_train_batch_size,
                self.num_generations,
                max(2, -(-self.num_generations // self.args.per_device_train_batch_size)),
            )

    def _ban_photo_tokens(self) -> None:
        """Image and video tokens are never sampled: in a completion they would have no photo to refer to."""
        config = conditional_model(self.model).config
        banned = {getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")} - {None}
        if self.use_vllm:
            ban_tokens(self.vllm_generation, banned)
        else:
            banned.update(self.generation_config.suppress_tokens or ())
            self.generation_config.suppress_tokens = sorted(banned)

    def _unsupported(self) -> str | None:
        """Why the packed pass can't be used; None if it can."""
        config = conditional_model(self.model).config
        family = FAMILIES.get(config.model_type)
        if family is None or not family.shared_prefix:
            return f"a {config.model_type!r} model"
        if "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):
            return "sliding-window attention"
        if self.tools or self.environment_factories is not None or self.rollout_func is not None:
            return "tools, environments or a rollout function"
        if not hasattr(self.processing_class, "image_processor"):
            return "a tokenizer without image processor"
        if not self.use_vllm and not _plain_generation(self.generation_config, self.model.generation_config):
            return "beam search, or generation without a plain cache"
        if self.aux_loss_enabled:
            return "a mixture of experts"
        return None

    # Every photo once

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.shares_prefix:
            return super()._generate_and_score_completions(inputs)
        self._tokenized = None
        with self._tokenized_once():
            rows = decoded_once(inputs, self.published_resize)
            output = super()._generate_and_score_completions(rows)
        output["prompt_index"] = self._prompt_index
        output["features"] = self._features
        return output

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], list[Any] | None, dict[str, Any]]:
        if not self.shares_prefix:
            return super()._tokenize_prompts(prompts)
        self._prompt_index, first = find_groups(prompts)
        ids, images, fields = super()._tokenize_prompts([prompts[i] for i in first])
        fields |= {name: torch.as_tensor(fields[name]) for name in IMAGE_FIELDS if name in fields}
        self._tokenized = fields
        self._features = self._frozen_features(fields) if "image_grid_thw" in fields else None
        rows = self._prompt_index
        return [ids[i] for i in rows], None if images is None else [images[i] for i in rows], fields

    @contextmanager
    def _tokenized_once(self) -> Iterator[None]:
        """Context manager in which the processor, asked again for the prompts' images, repeats its first answer.

        Image fields come once per prompt, token fields once per row.
        """
        processor, trainer = self.processing_class, self

        class Remembering(type(processor)):
            def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
                fields, rows = trainer._tokenized, trainer._prompt_index
                if images is None or fields is None:  # it is called for the first time
                    return super().__call__(images=images, text=text, **kwargs)
                types = [torch.tensor(fields["mm_token_type_ids"][i]) for i in rows]
                padded = torch.nn.utils.rnn.pad_sequence(types, batch_first=True, padding_side="left")
                return BatchFeature({**fields, "mm_token_type_ids": padded})

        remembering = copy.copy(processor)
        remembering.__class__ = Remembering
        remembering.image_processor = EachPhotoOnce(processor.image_processor)
        self.processing_class = remembering
        try:
            yield
        finally:
            self.processing_class = processor

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kw: Any
    ) -> Any:
        stock = super()._generate_single_turn
        if not self.shares_prefix or self.use_vllm or self.use_transformers_continuous_batching:
            return stock(prompt_ids, images, multimodal_fields, *args, **kw)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        # Features that autocast computed are not used: with an adapter, TRL generates outside of autocast.
        features = self._features
        if features is not None and features.pooler_output[0].dtype != conditional_model(model).dtype:
            features = None
        with shared_generate(model, self._prompt_index, features):
            return stock(prompt_ids, images, multimodal_fields, *args, **kw)

    def _frozen_features(self, fields: dict[str, Any]) -> Any:
        """The images' features, if the vision tower is the same in all passes and on this device; else None."""
        model = conditional_model(self.accelerator.unwrap_model(self.model))
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or not self._same_tower(model.model.visual):
            return None
        device, index = self.accelerator.device, self.processing_class.image_processor.index
        first, grids = first_of_each(index), fields["image_grid_thw"]
        patches = select_patches(fields["pixel_values"], grids, first)
        with self.accelerator.autocast():
            features = image_features(model, patches.to(device), grids[first].to(device))
        return select_features(features, index)

    def _same_tower(self, visual: Any) -> bool:
        """Is the vision tower the same in all passes: not trained, without an adapter, equal to the reference's?"""
        from peft.tuners.tuners_utils import BaseTunerLayer

        if any(p.requires_grad for p in visual.parameters()):
            return False
        if any(isinstance(module, BaseTunerLayer) for module in visual.modules()):
            return False
        if self.ref_model is None:
            return True
        if self._same_as_reference is None:  # not compared yet
            reference = conditional_model(self.accelerator.unwrap_model(self.ref_model)).model.visual
            pairs = zip(visual.parameters(), reference.parameters(), strict=True)
            self._same_as_reference = all(torch.equal(one, two.to(one.device)) for one, two in pairs)
        return self._same_as_reference

    # Whole groups

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if not (self.shares_prefix and self.model.training):
            return super()._prepare_inputs(generation_batch)
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            whole = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_by_group(whole, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # The packed pass

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.shares_prefix:
            self._prompt_index, self._features = inputs["prompt_index"], inputs["features"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        num_images: Sequence[int] | None = None,
        mm_token_type_ids: Any = None,
        pixel_values: Any = None,
        image_grid_thw: Any = None,
        **fields: Any,
    ) -> tuple[Any, Any, None]:
        images = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}
        if not self.shares_prefix:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                num_images=num_images,
                mm_token_type_ids=mm_token_type_ids,
                **images,
                **fields,
            )
        batch = {
            "ids": input_ids,
            "mask": attention_mask,
            "types": mm_token_type_ids,
            "num_images": num_images,
        }
        batch |= images | {"prompt_index": self._prompt_index, "features": self._features}
        rows = len(input_ids)
        parts = split_by_group(batch, -(-rows // (batch_size or rows)), shuffle=False)
        log_probs, entropies = [], []
        for part in parts:
            with self.accelerator.autocast():
                part_log_probs, part_entropies = _packed_pass(model, part, logits_to_keep)
            log_probs.append(part_log_probs)
            entropies.append(part_entropies)
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None


def _plain_generation(*configs: Any) -> bool:
    """Is generation sampled or greedy, with the usual growing cache? The first config that has a value counts."""

    def value(name: str) -> Any:
        values = [getattr(config, name, None) for config in configs]
        return next((value for value in values if value is not None), None)

    return (
        value("use_cache") is not False
        and value("num_beams") in (None, 1)
        and not value("cache_implementation")
    )


def _packed_pass(model: Any, batch: dict[str, Any], logits_to_keep: int) -> tuple[Any, Any]:
    """Log-probabilities and entropies (rows, `logits_to_keep`) of the completions' tokens, 0 as padding."""
    length = batch["ids"].shape[1] - logits_to_keep
    first = first_of_each(batch["prompt_index"])
    ids, mask = batch["ids"][first, :length], batch["mask"][first, :length]
    rope = {"image_grid_thw": batch["image_grid_thw"]}
    if batch["types"] is not None:
        rope["mm_token_type_ids"] = batch["types"][first, :length]
    positions, _ = rope_positions(conditional_model(model), ids, mask, rope)
    in_prompt = mask.bool()
    in_completion = batch["mask"][:, length:].bool()
    packed = pack(
        [row[seen] for row, seen in zip(ids, in_prompt, strict=True)],
        [positions[:, i, seen] for i, seen in enumerate(in_prompt)],
        [row[seen] for row, seen in zip(batch["ids"][:, length:], in_completion, strict=True)],
        batch["prompt_index"],
    )
    images: dict[str, Any] = {}
    if batch["features"] is not None:
        images = {"mm_encoder_outputs": {"image": batch["features"]}}
    elif batch["pixel_values"] is not None:
        images = {name: batch[name] for name in IMAGE_FIELDS}

    def padded(values: Any) -> Any:
        if values is None:
            return None
        return values.new_zeros(in_completion.shape).masked_scatter(in_completion, values)

    log_probs, entropies = packed_log_probs(model, packed, images)
    return padded(log_probs), padded(entropies)
