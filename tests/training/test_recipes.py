"""Every recipe in the package is parsed, fits its model, and trains a tiny model for two steps."""

import importlib.util

import pytest
import torch
import yaml
from trl import GRPOConfig

from helpers.families import save_family, varied
from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.training import grpo
from repic_core.training.command import ScriptArguments
from repic_core.training.recipe import LORA_TARGETS, read_recipe, recipe_names, recipe_path, recipe_values

RECIPES = [name for name in recipe_names() if not name.startswith("toy")]
# Values that need a GPU or several machines, and what replaces them here; all other values are used as written.
NOT_HERE = {
    "bf16": False,  # CUDA
    "deepspeed": None,  # CUDA; not installed here
    "fsdp": None,
    "fsdp_config": None,
    "use_vllm": False,  # CUDA, a server
    "vllm_mode": "server",
    "load_in_4bit": False,  # bitsandbytes; `test_four_bits` where it is installed
    "optim": "adamw_torch",  # paged_adamw_8bit: bitsandbytes
    "max_pixels": None,  # photos of the toy are smaller
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 1,
}
# Those of several GPUs: their completions make whole groups together.
GPUS = {"paper-7b-8gpu": 8, "7b-multinode": 16}
SHORT = {
    "max_steps": 2,
    "max_completion_length": 8,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
}


def cpu(values: dict) -> dict:
    """Replacements for a recipe's values that a CPU can't use."""
    found = {name: other for name, other in NOT_HERE.items() if name in values}
    return found | ({"per_device_train_batch_size": 8} if values["per_device_train_batch_size"] == 1 else {})


def test_the_recipes_that_the_readme_names_exist():
    assert set(RECIPES) >= {
        "paper",
        "paper-7b-8gpu",
        "7b-1gpu-80gb",
        "7b-1gpu-24gb",
        "3b-1gpu",
        "7b-multinode",
        "qwen3-vl-8b",
        "covip",
        "paper-gspo",
        "paper-dr-grpo",
        "paper-dapo",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_parsed_and_say_what_they_change(name):
    own = yaml.safe_load(recipe_path(name).read_text())
    base = own.pop("base", None)
    values = recipe_values(name)
    assert base == {"paper": None, "covip": "qwen3-vl-8b"}.get(name, "paper")
    if base:
        assert not {key for key in own if own[key] == recipe_values(base).get(key)}, "repeats its base"
    known = set(GRPOConfig.__dataclass_fields__) | set(ScriptArguments.__dataclass_fields__)
    assert set(values) <= known
    tune, config = read_recipe(name, GRPOConfig, {"output_dir": "x", **cpu(values)})
    for key in set(own) - set(cpu(values)) - set(NOT_HERE) - {"model"}:
        if key != "report_to":  # which becomes a list
            assert getattr(config if hasattr(config, key) else tune, key) == own[key]
    # as upstream's sampler: 1 completion x 8 GPUs x 2 passes, which are 2 prompts x 8, an optimizer step
    a_pass, group = values["per_device_train_batch_size"] * GPUS.get(name, 1), values["num_generations"]
    assert group == (4 if name == "covip" else 8)
    assert a_pass * values["gradient_accumulation_steps"] == 2 * group
    pixels = values["published_resize"], values["max_pixels"] == 12845056
    assert pixels == (name.startswith("paper"),) * 2  # grpo_trainer.py, lines 215 and 516 to 540
    first = recipe_path(name).read_text().splitlines()[:12]
    if "model" in own:
        assert any(f"--config {name}" in line and "accelerate launch" in " ".join(first) for line in first)


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_with_the_tiny_model(name, data, tmp_path):
    values = recipe_values(name)
    family = "qwen3_vl" if "Qwen3" in values.get("model", "") else "qwen2_5_vl"
    model, processor = load_model(save_family(family, tmp_path / "base"))
    trainer = grpo.train(
        model,
        processor,
        read_rows(data / "rows.jsonl"),
        tmp_path / "out",
        name,
        root=data,
        rewards=[(varied, 1.0)],
        **(cpu(values) | SHORT),
    )
    assert trainer.state.global_step == 2 and trainer.shares_prefix
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(loss == loss for loss in losses)
    moved = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    # DAPO leaves cut-off captions out, and all are cut off here.
    cut_off = values["mask_truncated_completions"]
    assert moved and cut_off != any(p.abs().sum() > 0 for p in moved)
    for key, value in values.items():
        if key not in NOT_HERE | cpu(values) | SHORT and hasattr(trainer.args, key):
            assert getattr(trainer.args, key) == value, key


def test_bases_are_followed_and_loops_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text(f"base: {tmp_path / 'b.yaml'}\nlearning_rate: 1.0\n")
    (tmp_path / "b.yaml").write_text("base: toy\nlearning_rate: 2.0\nlora_r: 4\n")
    values = recipe_values(tmp_path / "a.yaml")
    assert (values["learning_rate"], values["lora_r"], values["num_generations"]) == (1.0, 4, 8)
    assert "base" not in values
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path / 'a.yaml'}\n")
    with pytest.raises(ValueError, match="leads back to itself"):
        recipe_values(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("base: papper\n")
    with pytest.raises(ValueError, match=r"papper: no such recipe; use 3b-1gpu, .* or the path"):
        recipe_values(tmp_path / "a.yaml")


def test_four_bits_need_an_adapter_and_the_library(monkeypatch):
    from repic_core.models.loading import ModelError

    with pytest.raises(ValueError, match="use tune: lora"):
        read_recipe("7b-1gpu-24gb", GRPOConfig, {"output_dir": "x", "tune": "full", "bf16": False})
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        load_model("assets/toy-base", load_in_4bit=True)


def test_four_bits(data, tmp_path):
    """GRPO on a base in 4 bits: the same steps with and without checkpointing (bitsandbytes also runs on CPUs)."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install bitsandbytes)")
    from repic_core.benchmarks.presets import build_model

    model, processor = build_model("cpu")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    own, weights = cpu(recipe_values("7b-1gpu-24gb")) | SHORT, []
    own.pop("load_in_4bit")
    for checkpointing in (False, True):
        model, processor = load_model(tmp_path / "base", load_in_4bit=True)
        kinds = {type(part).__name__ for name, part in model.named_modules() if name.endswith("_proj")}
        assert kinds == {"Linear4bit"} and model.lm_head.weight.dtype == torch.float32
        trainer = grpo.train(
            model,
            processor,
            read_rows(data / "rows.jsonl"),
            tmp_path / f"out{checkpointing}",
            "7b-1gpu-24gb",
            root=data,
            rewards=[(varied, 1.0)],
            **own,
            gradient_checkpointing=checkpointing,
            lora_dropout=0.0,
        )
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora" in n})
        assert any(p.abs().sum() > 0 for n, p in weights[-1].items() if "lora_B" in n)
    assert all(torch.allclose(p, weights[1][n], atol=1e-6) for n, p in weights[0].items())


@pytest.mark.parametrize("name", [name for name in RECIPES if "model" in recipe_values(name)])
def test_adapters_of_the_real_models(name):
    """The model in its published size, on no device; the adapter's parameters counted by hand from its shapes."""
    from repic_core.models.sizes import sized_config
    from repic_core.planning.dry_run import build

    values = recipe_values(name)
    tune, _ = read_recipe(name, GRPOConfig, {"output_dir": "x", **cpu(values)})
    config = sized_config(values["model"])
    model = build(config, tune, bf16=True)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    hidden, inner = text.hidden_size, text.intermediate_size
    wide, narrow = text.num_attention_heads * head, text.num_key_value_heads * head
    sides = 2 * (hidden + wide) + 2 * (hidden + narrow) + 3 * (hidden + inner)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 64 * sides * text.num_hidden_layers
    billions = sum(p.numel() for n, p in model.named_parameters() if "lora" not in n) / 1e9
    assert round(billions, 2) == {"7B": 8.29, "3B": 3.75, "8B": 8.77}[values["model"].split("-")[2]]


def test_lora_targets_are_the_language_models_linear_layers(tmp_path):
    import re

    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        model, _ = load_model(save_family(family, tmp_path / family))
        hit = [name for name, _ in model.named_modules() if re.fullmatch(LORA_TARGETS, name)]
        layers = model.config.get_text_config().num_hidden_layers
        assert len(hit) == 7 * layers and not any("visual" in name for name in hit)


def test_runs_that_would_save_no_model_are_refused(base, data, tmp_path, capsys):
    rows = ["--rows", str(data / "rows.jsonl"), "--image_root", str(data), "--model", str(base)]
    here = [*rows, "--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--bf16", "false"]
    wrong = {
        "deepspeed": ["--config", "paper-7b-8gpu", *here],
        "export": ["--config", "toy", *here, "--push_to_hub", "true"],
        "captions must come from vLLM": ["--config", "toy", *here, "--fsdp", "full_shard"],
    }
    if importlib.util.find_spec("deepspeed"):
        wrong.pop("deepspeed")
    for said, arguments in wrong.items():
        with pytest.raises(SystemExit) as error:
            grpo.main(arguments)
        assert said in str(error.value) and str(error.value).startswith("repic_core.training.grpo: ")
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_a_save_without_weights_is_an_error_and_changes_nothing(base, data, tmp_path, monkeypatch):
    """FSDP saves no adapter from sharded states, and an empty one with its own checkpointing, without a warning."""
    from safetensors.torch import save_file

    from repic_core.training.failures import TrainingError
    from repic_core.training.trainer import SharedPrefixGRPOTrainer

    out, rows = tmp_path / "out", read_rows(data / "rows.jsonl")
    settings = {**SHORT, "root": data, "warmup_steps": 0, "rewards": [(varied, 1.0)]}
    grpo.train(*load_model(base), rows, out, "toy", **settings)
    assert not (out / "README.md").exists()  # TRL's card would name folders of this machine
    files = [out / "adapter_model.safetensors", out / "adapter_config.json"]
    before = [file.read_bytes() for file in files]

    def empty(self, folder, **_):
        save_file({}, f"{folder}/adapter_model.safetensors")

    for save in (empty, lambda self, folder, **_: None):
        monkeypatch.setattr(SharedPrefixGRPOTrainer, "save_model", save)
        with pytest.raises(TrainingError, match=r"no weights were written.*FULL_STATE_DICT"):
            grpo.train(*load_model(base), rows, out, "toy", overwrite=True, **settings)
        assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_recipes_of_other_systems(tmp_path, coding):
    (tmp_path / "mine.yaml").write_bytes("base: toy\nrun_name: Zoë\n".encode(coding))
    assert recipe_values(tmp_path / "mine.yaml")["run_name"] == "Zoë"
    (tmp_path / "mine.yaml").write_bytes("run_name: Zoë\nmax_steps: 3\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.yaml: not UTF-8 text .*: save it as UTF-8"):
        recipe_values(tmp_path / "mine.yaml")


def test_the_published_resize_needs_the_kits_trainer():
    with pytest.raises(ValueError, match="published_resize: needs shared_prefix: true"):
        read_recipe("paper", GRPOConfig, {"output_dir": "x", "shared_prefix": False, "bf16": False})


def test_rows_come_in_the_order_of_upstreams_sampler():
    """Restated from `grpo_trainer.py`, lines 68 to 115 and 829 to 843: chunks of (completions / G) of a seeded
    permutation, each row G times in a row; a chunk that is not full is left out."""
    from trl.trainer.utils import RepeatSampler

    rows, group, completions = 2001, 8, 1 * 8 * 2
    chunk = completions // group
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(42)).tolist()
    chunks = [order[start : start + chunk] for start in range(0, rows - rows % chunk, chunk)]
    theirs = [row for some in chunks for row in some for _ in range(group)]
    values = recipe_values("paper")
    ours = RepeatSampler(
        range(rows),
        mini_repeat_count=values["num_generations"],
        batch_size=chunk,
        seed=values["seed"],
        shuffle=values["shuffle_dataset"],
    )
    assert list(ours) == theirs and len(theirs) // completions == 1000
