"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL end to end: tiny random models of the real classes, with their processors."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.families import save_family, varied
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.concepts.concept import Concept
from repic_core.data.rows import read_rows
from repic_core.evaluation import task_scores
from repic_core.models.boxes import resized_size
from repic_core.models.families import FAMILIES
from repic_core.models.loading import load_model
from repic_core.retrieval.embedders import TowerEmbedder
from repic_core.training import grpo


@pytest.mark.parametrize("family", FAMILIES)
def test_train_save_load_caption_find_and_locate(family, data, tmp_path, monkeypatch):
    base = save_family(family, tmp_path / "base")
    model, processor = load_model(base)
    photo = Image.effect_noise((120, 90), 90).convert("RGB")
    concepts = [
        Concept("<bo>", image=photo.crop((0, 0, 60, 60)), info="a dog"),
        Concept("<mia>", image=photo),
    ]
    before = Captioner(model, processor, system=None, max_new_tokens=12).caption(photo, concepts)
    small = {"max_completion_length": 8, "logging_steps": 1, "warmup_steps": 0, "learning_rate": 0.05}
    trainer = grpo.train(
        model,
        processor,
        read_rows(data / "rows.jsonl"),
        tmp_path / "out",
        "toy",
        root=data,
        rewards=[(varied, 1.0)],
        max_steps=2,
        report_to="none",
        disable_tqdm=True,
        **small,
    )
    assert trainer.shares_prefix
    tuned = trainer.model.eval()
    after = Captioner(tuned, processor, system=None, max_new_tokens=12).caption(photo, concepts)
    assert after != before
    loaded, processor = load_model(base, adapter=tmp_path / "out")
    assert Captioner(loaded, processor, system=None, max_new_tokens=12).caption(photo, concepts) == after
    keeping = PrefixCaptioner(loaded, processor, system=None, max_new_tokens=12)
    assert [keeping.caption(photo, concepts) for _ in range(2)] == [after, after] and keeping.reused
    assert [*keeping.stream(photo, concepts)][-1] == after

    vectors = TowerEmbedder(loaded, processor, 40).images([photo, photo, concepts[0].image])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[1], atol=1e-5) and not np.allclose(
        vectors[0], vectors[2], atol=1e-3
    )

    wide, high = resized_size(*photo.size, processor.image_processor)
    said = [0, 0, 500, 1000] if FAMILIES[family].frame == "thousandths" else [0, 0, wide // 2, high]
    monkeypatch.setattr(task_scores, "answer_rows", lambda *_: [f'{{"bbox_2d": {said}}}'] * 2)
    boxes = task_scores.locate(loaded, processor, photo, concepts)
    assert np.allclose(boxes, [[0, 0, 60, 90]] * 2, atol=1)
    assert torch.is_grad_enabled()
