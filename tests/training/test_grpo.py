"""GRPO against independent references: the processor's own inputs, upstream's settings, an uninterrupted run."""

import csv
import random

import pytest
import torch
import yaml
from transformers import TrainerCallback

from helpers.families import varied
from repic_core.data.rows import read_rows, write_rows
from repic_core.models.loading import load_model
from repic_core.prompts import task_messages
from repic_core.training import grpo
from repic_core.training.recipe import read_recipe, recipe_path, recipe_values
from repic_core.training.trainer import SharedPrefixGRPOTrainer

SMALL = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "warmup_steps": 0,
    "report_to": "none",
    "disable_tqdm": True,
}


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize(
    ("count", "steps", "settings"),
    [
        (3, 6, {"tune": "full"}),  # 3 rows: the checkpoint is in the second epoch
        (12, 4, {"tune": "lora", "lora_dropout": 0.1, "gradient_accumulation_steps": 2}),
    ],
)
def test_resume_is_exact(base, data, tmp_path, count, steps, settings):
    rows = read_rows(data / "rows.jsonl")[:count]
    settings = {"root": data, "rewards": [(varied, 1.0)], "learning_rate": 1e-3, **SMALL, **settings}
    settings |= {"max_steps": steps, "save_steps": steps - 2, "save_total_limit": 3}
    whole = trained(grpo.train(*load_model(base), rows, tmp_path / "whole", **settings).model)
    parts = tmp_path / "parts"
    grpo.train(*load_model(base), rows, parts, callbacks=[StopAt(steps - 2)], **settings)
    stopped = grpo.train(*load_model(base), rows, parts, resume=True, **settings)
    assert stopped.state.global_step == steps
    assert (parts / f"checkpoint-{steps - 2}" / "optimizer.pt").exists()
    with open(parts / "metrics.csv") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, steps + 1))
    again = trained(stopped.model)
    assert whole.keys() == again.keys()
    for name, parameter in whole.items():
        assert torch.equal(parameter, again[name]), name


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_rollout_and_log_probabilities_are_those_of_the_processors_inputs(
    base, data, tmp_path, monkeypatch, shared_prefix
):
    """The trainer's batch gives each row the completion and log-probabilities that the row alone gives.

    So prompt, image order and rope positions (`mm_token_type_ids`) are right in sampling, policy and reference.
    """
    from trl import GRPOTrainer

    kind = SharedPrefixGRPOTrainer if shared_prefix else GRPOTrainer
    rows = [row for row in read_rows(data / "rows.jsonl") if row.method != "iou"][:4]
    assert len({len(row.images) for row in rows}) > 1
    sampled, passes = [], []
    log_probs_of = kind._get_per_token_logps_and_entropies

    def keep_ids(completions, completion_ids, **_):
        sampled.extend(completion_ids)
        return [0.0] * len(completions)

    def keep_log_probs(self, model, input_ids, attention_mask, logits_to_keep, **fields):
        out = log_probs_of(self, model, input_ids, attention_mask, logits_to_keep, **fields)
        passes.append(
            {
                tuple(ids[mask.bool()].tolist()): row[mask[-logits_to_keep:].bool()].detach()
                for ids, mask, row in zip(input_ids, attention_mask, out[0], strict=True)
            }
        )
        return out

    monkeypatch.setattr(kind, "_get_per_token_logps_and_entropies", keep_log_probs)
    settings = {**SMALL, "per_device_train_batch_size": 8, "num_generations": 2, "seed": 3, "max_steps": 1}
    settings |= {"root": data, "rewards": [(keep_ids, 1.0)], "learning_rate": 0.0, "shuffle_dataset": False}
    settings["shared_prefix"] = shared_prefix
    grpo.train(*load_model(base), rows, tmp_path, generation_kwargs={"do_sample": False}, **settings)
    assert len(passes) == 2  # reference and policy

    model, processor = load_model(base)
    suffixes = random.Random(3)
    for number, row in enumerate(rows):
        messages = task_messages([str(data / i) for i in row.images], row.problem, row.method, suffixes)
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = model.generate(
            **inputs, do_sample=False, max_new_tokens=8, suppress_tokens=[model.config.image_token_id]
        )
        size = inputs["input_ids"].shape[1]
        assert sampled[2 * number] == sampled[2 * number + 1] == ids[0, size:].tolist()
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1] - size))
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
        with torch.no_grad():
            want = (
                model(**inputs).logits[0, size - 1 : -1].log_softmax(-1).gather(1, ids[0, size:, None])[:, 0]
            )
        for log_probs in passes:
            torch.testing.assert_close(log_probs[tuple(ids[0].tolist())], want, atol=1e-4, rtol=0)


def test_reward_is_logged_by_method():
    logged = {}
    reward = grpo.make_reward("strict", min_length=12)
    texts = ["yes", "no", "<bo> is at home here.", "<bo> is here", "[0, 0, 9, 9]"]
    methods = ["yes_no", "yes_no", "yes_no_name", "yes_no_name_multi", "iou"]
    solutions = ["yes", "yes", "<bo>", '["<bo>", "<mia>"]', "[0, 0, 10, 10]"]
    columns = {"accu_reward_method": methods, "solution": solutions, "log_metric": logged.__setitem__}
    assert reward(texts, trainer_state=None, images=[None] * 5, **columns) == [1, 0, 1, 0.5, 1]
    means = {"yes_no": 0.5, "yes_no_name": 1, "yes_no_name_multi": 0.5, "iou": 1}
    assert logged == {f"reward/{method}": mean for method, mean in means.items()}
    assert grpo.make_reward("strict", min_length=13)(texts, **columns)[3] == 0
    assert grpo.make_reward("paper", min_length=100)(texts, **columns)[2] == 0


@pytest.mark.parametrize(("tune", "steps"), [("full", 24), ("lora", 4)])
def test_reward_rises_and_kl_starts_at_zero(base, data, tmp_path, tune, steps):
    def low_ids(completions, completion_ids, **_):
        return [-sum(ids) / len(ids) / 700 for ids in completion_ids]

    rows = [row for row in read_rows(data / "rows.jsonl") if row.method == "yes_no"]
    settings = {**SMALL, "per_device_train_batch_size": 16, "num_generations": 16, "lora_dropout": 0.0}
    settings |= {"root": data, "rewards": [(low_ids, 1.0)], "max_steps": steps, "tune": tune}
    settings |= {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    grpo.train(*load_model(base), rows, tmp_path, **settings)
    with open(tmp_path / "metrics.csv") as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == list(range(1, steps + 1))
    assert {"reward", "reward/yes_no", "completions/mean_length", "grad_norm"} <= set(log[0])
    assert abs(float(log[0]["kl"])) < 1e-6 < 1e-4 < float(log[-1]["kl"])
    if tune == "full":  # in four steps an adapter moves a random model little
        reward = [float(row["rewards/low_ids/mean"]) for row in log]
        assert sum(reward[-4:]) / 4 > sum(reward[:4]) / 4 + 0.1


def test_kl_is_measured_from_the_model_that_was_given(base, data, tmp_path):
    rows = read_rows(data / "rows.jsonl")[:2]
    model, processor = load_model(base)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"differs from its files in .*, which the KL term compares"):
        grpo.train(model, processor, rows, tmp_path, root=data, max_steps=1, tune="full", **SMALL)
    grpo.train(model, processor, rows, tmp_path, root=data, max_steps=1, tune="lora", **SMALL)
    with pytest.raises(ValueError, match="already has an adapter: merge it"):
        grpo.train(model, processor, rows, tmp_path / "two", root=data, max_steps=1, tune="lora", **SMALL)


PUBLISHED = {  # the paper's appendix B.1, upstream's run script and trainer
    "tune": "lora",
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_dropout": 0.05,
    "learning_rate": 1e-5,
    "beta": 0.04,
    "num_generations": 8,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "num_iterations": 1,
    "loss_type": "grpo",
    "scale_rewards": "group",
    "epsilon": 0.2,
    "use_bias_correction_kl": False,
    "importance_sampling_level": "token",
    "mask_truncated_completions": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "max_completion_length": 256,
    "bf16": True,
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "reward_profile": "paper",
    "reward_min_length": 100,
}


def test_paper_recipe_writes_every_published_value():
    from trl import GRPOConfig

    written = yaml.safe_load(recipe_path("paper").read_text())
    assert {key: written.get(key) for key in PUBLISHED} == PUBLISHED
    _, config = read_recipe("paper", GRPOConfig, {"output_dir": "x", "bf16": False})
    prompts = config.per_device_train_batch_size / config.num_generations
    assert prompts * 8 * config.gradient_accumulation_steps == 16  # an optimizer step on 8 GPUs, as published


def test_recipe_mistakes_are_named(tmp_path):
    from trl import GRPOConfig

    with pytest.raises(ValueError, match=r"toy.yaml: unknown key\(s\) betta, learnig_rate"):
        read_recipe("toy", GRPOConfig, {"learnig_rate": 1.0, "betta": 0})
    with pytest.raises(ValueError, match="papper: no such recipe"):
        recipe_path("papper")
    for text, message in (("a: [", "not valid YAML"), ("toy", "must hold lines"), ("\xff", "not UTF-8 text")):
        (tmp_path / "mine.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=f"mine.yaml: {message}"):
            recipe_values(tmp_path / "mine.yaml")
    for key in ("tune", "reward_profile"):
        with pytest.raises(ValueError, match=f"{key}: 'lora2' must be one of"):
            read_recipe("toy", GRPOConfig, {key: "lora2"})


def test_no_rows_is_an_error(base, tmp_path):
    model, processor = load_model(base)
    with pytest.raises(ValueError, match="rows: there are none"):
        grpo.train(model, processor, [], tmp_path)


def test_paper_recipe_runs_and_checkpointing_changes_nothing(base, data, tmp_path):
    rows = read_rows(data / "rows.jsonl")[:2]
    settings = {**SMALL, "root": data, "rewards": [(varied, 1.0)], "max_steps": 2, "bf16": False}
    settings |= {"lora_dropout": 0.0, "learning_rate": 1e-3}
    results = []
    for checkpointing in (True, False):
        model, processor = load_model(base)
        settings["gradient_checkpointing"] = checkpointing
        trainer = grpo.train(model, processor, rows, tmp_path / str(checkpointing), "paper", **settings)
        assert processor.image_processor.size["longest_edge"] == 12845056  # grpo_trainer.py, line 215
        results.append(trained(trainer.model))
    names = {name.split(".lora_")[0] for name in results[0]}
    assert len(names) == 7 * model.config.text_config.num_hidden_layers
    assert not any("visual" in name or "lm_head" in name for name in names)
    assert all(parameter.any() for name, parameter in results[0].items() if "lora_B" in name)
    for name, parameter in results[0].items():
        torch.testing.assert_close(parameter, results[1][name], atol=1e-6, rtol=1e-4)


def test_command_line_reads_a_recipe_and_overrides_it(base, data, tmp_path):
    recipe = tmp_path / "mine.yaml"
    text = "tune: lora\nlora_r: 4\nlearning_rate: 1e-3\nmax_steps: 9\nnum_generations: 4\nbf16: false\n"
    recipe.write_text(text + "max_completion_length: 8\nreport_to: tensorboard\n")
    out = tmp_path / "out"
    write_rows(data / "few.jsonl", read_rows(data / "rows.jsonl")[:2])
    options = {"config": recipe, "model": base, "rows": data / "few.jsonl", "output_dir": out, "max_steps": 1}
    grpo.main([text for key, value in options.items() for text in (f"--{key}", str(value))])
    assert (out / "checkpoint-1").is_dir() and not (out / "checkpoint-9").exists()
    assert yaml.safe_load((out / "adapter_config.json").read_text())["r"] == 4
    assert list(out.rglob("events.out.tfevents.*"))
    load_model(base, adapter=out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config: give 3b-1gpu, "),
        (["--config"], "--config: give 3b-1gpu, "),
        (["--config", "papper"], "papper: no such recipe"),
        (["--config", "toy", "--output_dir", "x"], "--rows: give a JSON or JSONL file"),
        (
            ["--config", "toy", "--output_dir", "x", "--rows", "gone.jsonl"],
            "gone.jsonl: can't be read (No such file",
        ),
        (["--config", "toy", "--output_dir", "x", "--betta", "1"], "betta"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, message):
    with pytest.raises(SystemExit) as error:
        grpo.main(arguments)
    assert message in str(error.value)
