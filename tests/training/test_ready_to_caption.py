"""After a training, however it ended, the same model captions like one that is loaded afresh."""

import json
import threading
from contextlib import closing

import pytest
import torch
from transformers import TrainerCallback

from helpers.families import At, varied
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept
from repic_core.data.rows import TrainingExample, read_rows
from repic_core.evaluation.task_scores import answer_rows, locate
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.models.parts import conditional_model, eval_mode
from repic_core.retrieval.embedders import TowerEmbedder
from repic_core.training import grpo, sft
from repic_core.training.failures import TrainingError

NEW_TOKENS = 16
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": True,
    "lora_dropout": 0.5,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
GRPO = {**SMALL, "num_generations": 4, "max_completion_length": 8, "rewards": [(varied, 1.0)]}


@pytest.fixture(scope="module")
def shown(data):
    """The photos of a caption row: references, then the query."""
    row = next(row for row in read_rows(data / "captions_multi.jsonl") if len(row.images) == 3)
    return [open_image(data / image) for image in row.images]


@pytest.fixture(scope="module")
def photo(shown):
    return shown[-1]


@pytest.fixture(scope="module")
def concepts(shown):
    return [
        Concept(f"<{name}>", image=image, info="a toy")
        for name, image in zip(("bo", "mira"), shown, strict=False)
    ]


def every_answer(model, processor, photo, concepts):
    """What each entry point that generates answers, and an embedding."""
    options = {"system": None, "max_new_tokens": NEW_TOKENS}
    plain = Captioner(model, processor, **options)
    keeping = PrefixCaptioner(model, processor, **options)
    item = CaptionItem(photo, concepts)
    row = TrainingExample((photo,), "Where is it?", [0, 0, 1, 1], "iou")
    return {
        "caption": plain.caption(photo, concepts),
        "stream": [*plain.stream(photo, concepts)],
        "batch": [row[2] for row in plain.caption_many([item, item], progress=False)],
        "kept": [keeping.caption(photo, concepts) for _ in range(2)],
        "kept stream": [*keeping.stream(photo, concepts)],
        "task": answer_rows(model, processor, [row], max_new_tokens=NEW_TOKENS),
        "locate": locate(model, processor, photo, concepts),
        "embedding": TowerEmbedder(model, processor, 48).images([photo]).tolist(),
    }


def trained(kind, base, data, out, **settings):
    """(the model that was given, the trainer) after two steps."""
    model, processor = load_model(base, device="cpu")
    if kind == "grpo":
        rows = read_rows(data / "rows.jsonl")
        return model, grpo.train(model, processor, rows, out, root=data, **{**GRPO, **settings})
    rows = read_rows(data / "captions_multi.jsonl")[:8]
    return model, sft.train(model, processor, rows, out, root=data, **{**SMALL, **settings})


def is_ready(model):
    whole = conditional_model(model)
    names = {module.config._attn_implementation for module in whole.modules() if hasattr(module, "config")}
    return (
        not any(module.training for module in model.modules())
        and not whole.is_activation_checkpointing
        and whole.config.use_cache is True
        and names == {"sdpa"}
        and "_original_forward" not in vars(model)
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"shared_prefix": False}),
        ("grpo", {"tune": "full"}),
        ("sft", {"tune": "lora"}),
        ("sft", {"tune": "full"}),
    ],
)
def test_a_trained_model_captions_like_what_was_saved(base, data, tmp_path, photo, concepts, kind, settings):
    model, trainer = trained(kind, base, data, tmp_path / "out", **settings)
    assert is_ready(model) and is_ready(trainer.model)
    adapter = settings.get("tune", "lora") == "lora"
    fresh = load_model(base, tmp_path / "out", device="cpu") if adapter else load_model(tmp_path / "out")
    want = every_answer(*fresh, photo, concepts)
    assert len(want["caption"]) > 8 and want["kept"] == [want["caption"]] * 2
    if not adapter:
        assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"]
    for one in (model, trainer.model):
        assert every_answer(one, trainer.processing_class, photo, concepts) == want


def stop(*_):
    raise KeyboardInterrupt


def fail(*_):
    raise RuntimeError("out of memory, say")


@pytest.mark.parametrize("kind", ["grpo", "sft"])
@pytest.mark.parametrize(("act", "error"), [(stop, KeyboardInterrupt), (fail, TrainingError)])
def test_a_stopped_training_leaves_a_model_that_captions(base, data, tmp_path, kind, act, error):
    model, processor = load_model(base, device="cpu")
    options = {"root": data, "callbacks": [At(1, act)], "tune": "lora"}
    with pytest.raises(error):
        if kind == "grpo":
            grpo.train(model, processor, read_rows(data / "rows.jsonl"), tmp_path / "out", **GRPO, **options)
        else:
            rows = read_rows(data / "captions_multi.jsonl")[:8]
            sft.train(model, processor, rows, tmp_path / "out", **SMALL, **options)
    assert is_ready(model)


def test_a_training_can_be_continued_after_captions(base, data, tmp_path, photo, concepts):
    """The trainer turns on again what was turned off."""
    _, trainer = trained("grpo", base, data, tmp_path / "out", max_steps=1)
    Captioner(trainer.model, trainer.processing_class, system=None, max_new_tokens=4).caption(photo, concepts)
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            seen.append((model.training, conditional_model(model).is_activation_checkpointing))

    trainer.add_callback(Watch())
    trainer.train()
    assert seen == [(True, True)]


@pytest.fixture
def training(base):
    """A model in training mode with checkpointing and dropout, but for one layer; and the same in eval mode."""
    from peft import LoraConfig, get_peft_model

    def tuned():
        torch.manual_seed(0)
        model, processor = load_model(base, device="cpu")
        config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(model, config), processor

    model, processor = tuned()
    model.enable_input_require_grads()
    conditional_model(model).activation_checkpointing_enable()
    model.train()
    conditional_model(model).model.visual.blocks[1].eval()
    still, _ = tuned()
    return model, processor, still.eval()


def modes(model):
    return [module.training for module in model.modules()]


def test_every_entry_point_runs_in_eval_mode_and_puts_each_modules_mode_back(training, photo, concepts):
    model, processor, still = training
    before = modes(model)
    assert len(set(before)) == 2
    assert every_answer(model, processor, photo, concepts) == every_answer(still, processor, photo, concepts)
    assert modes(model) == before and conditional_model(model).is_activation_checkpointing


@pytest.mark.parametrize("kind", [Captioner, PrefixCaptioner])
def test_modes_are_put_back_after_errors_and_abandoned_streams(training, photo, concepts, kind):
    model, processor, _ = training
    before = modes(model)
    captioner = kind(model, processor, system=None, max_new_tokens=300)
    with pytest.raises(ValueError, match="max_new_tokens"):
        captioner.caption(photo, concepts, max_new_tokens=-1)
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(captioner.stream(photo, concepts, max_new_tokens=-1))
    assert modes(model) == before

    def fails(*_):
        assert not any(modes(model))
        raise RuntimeError("out of memory, say")

    hook = conditional_model(model).lm_head.register_forward_hook(fails)
    for call in (captioner.caption, lambda *a: list(captioner.stream(*a))):
        with pytest.raises(RuntimeError, match="out of memory, say"):
            call(photo, concepts)
        assert modes(model) == before
    hook.remove()
    with closing(captioner.stream(photo, concepts, min_new_tokens=300)) as stream:
        next(stream)
    assert modes(model) == before
    stream = captioner.stream(photo, concepts, min_new_tokens=300)
    next(stream)
    del stream  # nobody closes it
    assert modes(model) == before


def test_threads_that_overlap_put_the_modes_back_when_the_last_leaves():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1), torch.nn.Dropout())
    model[1].eval()
    before, inside, leave = modes(model), threading.Event(), threading.Event()

    def other():
        with eval_mode(model):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with eval_mode(model):
        thread.start()
        assert inside.wait(10)
        with pytest.raises(KeyError), eval_mode(model[0]):
            raise KeyError
        assert not any(modes(model))
    assert not any(modes(model))  # the other thread is still in it
    leave.set()
    thread.join()
    assert modes(model) == before
