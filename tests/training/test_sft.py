"""SFT against independent references: the loss of the processor's own inputs, an uninterrupted run."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from repic_core.data.rows import read_rows
from repic_core.models.loading import load_model
from repic_core.prompts import task_messages
from repic_core.training import sft

SMALL = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none", "disable_tqdm": True}


@pytest.mark.parametrize("without", [(), (0, 3), range(6)])
def test_first_loss_is_that_of_the_captions_alone(base, data, tmp_path, without):
    """Mean negative log-likelihood of the caption tokens given each row's own prompt and images, if it has any."""
    rows = read_rows(data / "captions_multi.jsonl")[:6]
    assert len({len(row.images) for row in rows}) > 1
    for number in without:
        problem = rows[number].problem.replace("<image>", "")
        rows[number] = replace(rows[number], images=(), problem=problem)
    settings = {**SMALL, "root": data, "max_steps": 1, "per_device_train_batch_size": 6, "seed": 3}
    trainer = sft.train(*load_model(base), rows, tmp_path, **settings)
    model, processor = load_model(base)
    suffixes, losses = random.Random(3), []
    for row in rows:
        images = [str(data / image) for image in row.images]
        messages = task_messages(images, row.problem, row.method, suffixes)
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, **options)
        answer = {"role": "assistant", "content": [{"type": "text", "text": row.solution}]}
        full = processor.apply_chat_template([*messages, answer], **options)
        with torch.no_grad():
            log_probs = model(**full).logits[0, :-1].log_softmax(-1)
        start = prompt["input_ids"].shape[1] - 1
        of_caption = log_probs.gather(1, full["input_ids"][0, 1:, None])[start:, 0]
        assert len(of_caption) > 5
        losses.append(-of_caption)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-4)


@pytest.mark.parametrize("settings", [{"tune": "full"}, {"tune": "lora", "lora_dropout": 0.1}])
def test_resume_is_exact(base, data, tmp_path, settings):
    class StopAtFour(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    rows = read_rows(data / "captions_multi.jsonl")  # 12 rows: 3 steps an epoch
    settings = {**SMALL, **settings, "root": data, "max_steps": 6, "save_steps": 4, "learning_rate": 1e-3}
    whole = sft.train(*load_model(base), rows, tmp_path / "whole", **settings).model
    sft.train(*load_model(base), rows, tmp_path / "parts", callbacks=[StopAtFour()], **settings)
    again = sft.train(*load_model(base), rows, tmp_path / "parts", resume=True, **settings)
    assert again.state.global_step == 6
    start, moved = dict(load_model(base)[0].named_parameters()), 0
    other = dict(again.model.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, other[name]), name
        moved += parameter.requires_grad and not (name in start and torch.equal(parameter, start[name]))
        assert not (parameter.requires_grad and "visual" in name)
    assert moved > 20


def test_only_the_caption_is_learned(base, data, tmp_path):
    model, processor = load_model(base)
    rows = read_rows(data / "captions_multi.jsonl")
    settings = {**SMALL, "root": data, "max_steps": 12, "learning_rate": 5e-3, "warmup_steps": 0}
    trainer = sft.train(model, processor, rows, tmp_path, tune="full", **settings)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    for labels in next(iter(trainer.get_train_dataloader()))["labels"]:
        text = processor.tokenizer.decode(labels[labels != -100])
        assert text in {f"{row.solution}<|im_end|>" for row in rows}
    boxes = [row for row in read_rows(data / "rows.jsonl") if row.method == "iou"]
    with pytest.raises(ValueError, match="row 1: the solution must be a caption"):
        sft.train(model, processor, boxes, tmp_path / "boxes", root=data)
