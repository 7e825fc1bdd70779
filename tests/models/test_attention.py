"""Which attention is chosen where; a ready-made kernel gives what sdpa gives, in captions and in training."""

import logging
import sys
import types

import pytest
import torch
from PIL import Image

from helpers.families import save_family, varied
from helpers.flash_kernel import NAME, provide_kernel
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept
from repic_core.data.rows import read_rows
from repic_core.models import loading
from repic_core.models.loading import _choose_attention, _log_once, load_model
from repic_core.training import grpo


@pytest.fixture
def lines(caplog):
    """What is logged about the choice."""
    _log_once.cache_clear()
    caplog.set_level(logging.INFO, "repic_core.models.loading")
    yield lambda: [record.message for record in caplog.records if record.name == loading.__name__]
    _log_once.cache_clear()


@pytest.fixture
def no_flash_attn(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # so an import fails


def test_flash_attn_comes_before_its_kernel(monkeypatch, lines):
    asked = provide_kernel(monkeypatch)
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    assert _choose_attention("auto", True) == "flash_attention_2" and asked == []
    assert lines() == ["attention: flash_attention_2 (flash-attn was found)"]


def test_without_flash_attn_its_ready_made_kernel_is_taken(monkeypatch, lines, no_flash_attn):
    asked = provide_kernel(monkeypatch)
    assert _choose_attention("auto", True) == NAME and asked == [NAME]
    (line,) = lines()
    assert line.startswith(f"attention: {NAME} (ready-made kernel; flash-attn can't be imported: ")


def test_without_half_precision_on_cuda_no_kernel_is_asked_for(monkeypatch, lines, no_flash_attn):
    asked = provide_kernel(monkeypatch)
    assert _choose_attention("auto", False) == "sdpa" and asked == []
    assert lines() == ["attention: sdpa (flash-attn needs CUDA and half precision)"]


def test_without_the_package_it_is_sdpa(monkeypatch, lines, no_flash_attn):
    from transformers.integrations import hub_kernels

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: False)
    assert _choose_attention("auto", True) == "sdpa"
    (line,) = lines()
    assert line.startswith("attention: sdpa (flash-attn can't be imported: ") and "\n" not in line
    assert "no ready-made kernel: `kernels` is either not installed or uses an incompatible version" in line


@pytest.mark.parametrize(
    "fault",
    [
        ValueError("Version 4 is not available in the local cache and Hugging Face Hub is in offline mode"),
        FileNotFoundError("Cannot find a build variant for this system"),
        OSError("libcudart.so: cannot open shared object file"),
    ],
    ids=["the hub is off and the cache empty", "no build for this card", "a build that does not load"],
)
def test_a_kernel_that_cannot_be_had_leaves_sdpa(monkeypatch, lines, no_flash_attn, fault):
    from transformers.integrations import hub_kernels

    def fail(*_, **__):
        raise fault

    provide_kernel(monkeypatch)
    monkeypatch.setattr(hub_kernels, "get_kernel", fail)
    assert _choose_attention("auto", True) == "sdpa"
    (line,) = lines()
    assert "no ready-made kernel: " in line and str(fault) in line


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_captions_with_a_kernel_equal_those_with_sdpa(monkeypatch, tmp_path, family):
    """Padded batches, single photos, kept references; the vision tower runs the kernel, too."""
    provide_kernel(monkeypatch)
    folder = save_family(family, tmp_path)
    sdpa, processor = load_model(folder, device="cpu", attn="sdpa")
    flash, _ = load_model(folder, device="cpu", attn=NAME)
    tower = flash.model.visual.blocks[0].attn
    assert tower.config._attn_implementation == NAME and "forward" not in vars(tower)
    photo = Image.effect_noise((96, 64), 90).convert("RGB")
    references = [Concept(name="bo", image=photo.resize((32, 48)), info="a toy")]
    items = [CaptionItem(photo, references), CaptionItem(photo.resize((48, 48)), [])]
    one, two = (Captioner(model, processor, max_new_tokens=8) for model in (sdpa, flash))
    inputs = one.inputs(items)
    with torch.no_grad():
        gap = (sdpa(**inputs).logits - flash(**inputs).logits)[inputs["attention_mask"].bool()]
    assert 0 < gap.abs().max() < 1e-4  # not the same arithmetic
    assert one.caption_many(items, progress=False) == two.caption_many(items, progress=False)
    keeping = PrefixCaptioner(flash, processor, max_new_tokens=8)
    want = one.caption(photo, references)
    assert [keeping.caption(photo, references) for _ in range(2)] == [want, want] and keeping.reused


def test_training_with_a_kernel_takes_the_steps_of_sdpa(monkeypatch, base, data, tmp_path):
    """GRPO with the shared prefix: its rollouts run the kernel, its packed passes the kit's own attention."""
    provide_kernel(monkeypatch)
    weights, losses = [], []
    options = {"max_steps": 3, "logging_steps": 1, "max_completion_length": 8, "warmup_steps": 0}
    for attn in ("sdpa", NAME):
        trainer = grpo.train(
            *load_model(base, device="cpu", attn=attn),
            read_rows(data / "rows.jsonl"),
            tmp_path / attn.replace("/", "-"),
            "toy",
            root=data,
            rewards=[(varied, 1.0)],
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        weights.append(
            torch.cat([p.detach().flatten() for n, p in trainer.model.named_parameters() if "lora_B" in n])
        )
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert weights[0].abs().max() > 0
    assert (weights[0] - weights[1]).norm() < 0.05 * weights[0].norm()
