"""A short GRPO run with stock TRL and with the shared prefix, compared step by step; one batch of such a run."""

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from helpers.families import varied
from repic_core.data.rows import read_rows, to_dataset
from repic_core.models.loading import load_model
from repic_core.training.recipe import prepare_tuning, read_recipe
from repic_core.training.trainer import SharedPrefixGRPOTrainer

SETTINGS = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 10,
    "max_steps": 3,
    "logging_steps": 1,
    "warmup_steps": 0,
    "optim": "sgd",  # Adam's first steps are as long as its rate, even for a tiny gradient that is mostly rounding
    "learning_rate": 1e-2,
    "report_to": "none",
    "disable_tqdm": True,
}


def make(kind, base, data, out, rows=None, eval=None, prepare=None, lora=None, **settings):
    """A trainer of `kind` on tuning rows or a dataset; `prepare` changes the model, `lora` is used instead."""
    tune, config = read_recipe("toy", GRPOConfig, {**SETTINGS, "output_dir": str(out), **settings})
    config.remove_unused_columns = False
    model, processor = load_model(base)
    peft_config = prepare_tuning(model, processor, tune)
    if prepare:
        prepare(model)
    rows = read_rows(data / "rows.jsonl") if rows is None else rows
    torch.manual_seed(1)
    found = kind(
        model=model,
        reward_funcs=[varied],
        args=config,
        train_dataset=to_dataset(rows, data, 0) if isinstance(rows, list) else rows,
        eval_dataset=to_dataset(eval, data, 0) if eval else None,
        processing_class=processor,
        peft_config=lora or peft_config,
    )
    if kind is GRPOTrainer:  # it bans only image tokens
        found.generation_config.suppress_tokens = [model.config.image_token_id, model.config.video_token_id]
    return found


def run(kind, *args, **settings):
    """The logged steps and the trained parameters of a short run."""
    found = make(kind, *args, **settings)
    torch.manual_seed(3)
    found.train()
    logs = [entry for entry in found.state.log_history if "loss" in entry]
    return logs, {name: p.detach() for name, p in found.model.named_parameters() if p.requires_grad}


def same_run(*args, **settings):
    """Both runs must have the same samples, losses, gradients and final parameters; returns the kit's logs."""
    logs, stock = run(GRPOTrainer, *args, **settings)
    own_logs, own = run(SharedPrefixGRPOTrainer, *args, **settings)
    assert len(logs) == len(own_logs) == settings.get("max_steps", SETTINGS["max_steps"])
    for one, two in zip(logs, own_logs, strict=True):
        for key in ("reward", "completions/mean_length"):  # the same samples
            assert one.get(key) == two.get(key), key  # not in a step that uses samples again
        means = ("entropy", "kl") if settings.get("gradient_accumulation_steps", 1) == 1 else ()
        for key in ("grad_norm", *means):  # with accumulation, means of means over other micro-batches
            if key in one:
                assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-6)
    assert any(one["grad_norm"] > 0 for one in logs) and "reward" in logs[0]
    for name, parameter in stock.items():
        torch.testing.assert_close(own[name], parameter, rtol=1e-4, atol=1e-5, msg=name)
    return own_logs


def batch_of(found):
    """One generated and scored batch, before it is split."""
    torch.manual_seed(3)
    return found._generate_and_score_completions(next(iter(found.get_train_dataloader())))


def log_probs(found, batch, batch_size=None):
    """Log-probabilities and entropies of all completions of a batch."""
    return found._get_per_token_logps_and_entropies(
        found.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
        batch_size=batch_size,
        compute_entropy=True,
        **{k: batch.get(k) for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )
