"""The benchmark on a step so small that only its arithmetic is tested; nothing depends on how long it took."""

import json

import pytest

from repic_core.benchmarks import training_step as benchmark
from repic_core.benchmarks.presets import PRESETS
from repic_core.cli import main
from repic_core.models.sizes import SIZES, qwen2_5_vl_config

TINY = ["--prompts", "1", "--generations", "2", "--completion", "4", "--references", "1", "--repeats", "1"]


def test_command_writes_what_it_measured(tmp_path, capsys):
    out = ["--out", str(tmp_path / "found.json")]
    assert main(["benchmark", "training-step", "--preset", "cpu", *TINY, *out]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["contenders"])[:3] == ["stock", "stock+vision", "shared"]
    prompt, completion = found["prompt_tokens"], 2 * 4
    assert found["minimum_tokens"] == prompt + completion
    # a packed row needs neither the prompt's last token by itself nor a completion's last one
    assert found["contenders"]["shared"]["policy_tokens"] == prompt - 1 + completion
    assert found["contenders"]["stock"]["policy_tokens"] == 2 * (prompt + 4)
    assert found["tokens_over_minimum"] <= 1.0
    for one in found["contenders"].values():
        assert one["peak_bytes"] > 1e8
        for phase in benchmark.PHASES:
            assert len(one["raw_seconds"][phase]) == 1 and one["raw_seconds"][phase][0] > 0
    stock, shared = (found["contenders"][name]["seconds"] for name in ("stock", "shared"))
    for phase in benchmark.PHASES:
        assert found[f"{phase}_ratio"] == pytest.approx(stock[phase] / shared[phase])
    assert stock["step"] > stock["rollout"] + stock["policy"]
    printed = capsys.readouterr().out
    assert "7,649,920 parameters" in printed and found["machine"]["date"] in printed
    assert len([line for line in printed.splitlines() if line.startswith("| ")]) == 8


def test_a_failed_contender_says_why():
    with pytest.raises(RuntimeError, match=r"(?s)cpu, nobody: the run failed.*KeyError: 'nobody'"):
        benchmark.in_a_process("cpu", "nobody", PRESETS["cpu"] | {"references": 1}, 1)


def test_sizes_are_qwens():
    """Parameters of Qwen2.5-VL-3B and -7B, as their model cards count them, on the meta device."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from repic_core.toyworld.model import make_processor

    tokenizer = make_processor().tokenizer
    for preset, count in (("3b-random", 3_754_622_976), ("7b-random", 8_292_166_656)):
        assert preset in SIZES
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(preset, tokenizer))
        assert sum(p.numel() for p in model.parameters()) == count
