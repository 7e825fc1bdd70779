"""Lengths of prompts against the processors' own inputs; too long ones are named before training starts."""

import pytest
import torch
from PIL import Image

from helpers.families import save_family
from repic_core.data.rows import TrainingExample, read_rows, to_dataset
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.toyworld.model import make_processor
from repic_core.training import grpo
from repic_core.training.prompt_lengths import check_prompts, prompt_lengths


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def loaded(request, tmp_path_factory):
    return load_model(save_family(request.param, tmp_path_factory.mktemp(request.param)))


def photos(folder, *sizes):
    for number, size in enumerate(sizes):
        image, exif = Image.new("RGB", size), Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1  # the second is turned by 90 degrees
        image.save(folder / f"{number}.jpg", exif=exif)
    return [f"{number}.jpg" for number in range(len(sizes))]


def test_lengths_are_the_processors_own(loaded, data, tmp_path):
    _, processor = loaded
    names = photos(tmp_path, (400, 300), (120, 700), (20, 20), (33, 1000))
    rows = [
        TrainingExample(tuple(names), "Who is this?", "<bo>", "yes_no_name"),
        TrainingExample(tuple(names[1:3]), "<image>One.<image> Two.", "yes", "yes_no"),
    ]
    for dataset in (to_dataset(rows, tmp_path, 0), to_dataset(read_rows(data / "rows.jsonl"), data, 0)):
        own = []
        for row in dataset:
            text = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            images = [open_image(image) for image in row["images"]]
            own.append(processor(text=[text], images=images, return_tensors="pt")["input_ids"].shape[1])
        assert prompt_lengths(dataset, processor) == own
        assert prompt_lengths(dataset.select([1, 0]), processor) == [own[1], own[0]]


def test_long_prompts_are_named_with_how_to_fix_them(loaded, data):
    _, processor = loaded
    dataset = to_dataset(read_rows(data / "rows.jsonl"), data, 0)
    lengths = prompt_lengths(dataset, processor)
    check_prompts(dataset, processor, max(lengths))
    before = dict(processor.image_processor.size)
    with pytest.raises(ValueError) as error:
        check_prompts(dataset, processor, max(lengths) - 1)
    longest = lengths.index(max(lengths)) + 1
    assert f"row {longest} ({max(lengths)} tokens)" in str(error.value)
    with pytest.raises(ValueError, match=r"and \d+ more: smaller photos are not enough"):
        check_prompts(dataset, processor, 5)
    with pytest.raises(ValueError, match=r"with max_pixels \d+ they fit") as error:
        check_prompts(dataset, processor, max(lengths) - 20)
    assert dict(processor.image_processor.size) == before
    fits = int(str(error.value).split("max_pixels ")[1].split()[0])
    processor.image_processor.size["longest_edge"] = fits
    check_prompts(dataset, processor, max(lengths) - 20)
    processor.image_processor.size["longest_edge"] = 2 * fits
    with pytest.raises(ValueError):
        check_prompts(dataset, processor, max(lengths) - 20)
    processor.image_processor.size["longest_edge"] = before["longest_edge"]


def test_training_does_not_start(base, data, tmp_path):
    model, processor = load_model(base)
    rows = read_rows(data / "rows.jsonl")
    with pytest.raises(ValueError, match="prompts longer than 60 tokens"):
        grpo.train(
            model, processor, rows, tmp_path / "out", root=data, max_prompt_tokens=60, report_to="none"
        )
    assert not (tmp_path / "out").exists()
    model, processor = load_model(base)
    model.config.get_text_config().max_position_embeddings = 168
    with pytest.raises(ValueError, match="prompts longer than 56 tokens"):  # 112 are for the completion
        grpo.train(model, processor, rows, tmp_path / "out", root=data, report_to="none")


def test_a_missing_photo_is_named(base, data, tmp_path):
    _, processor = load_model(base)
    (tmp_path / "a.png").write_bytes((data / read_rows(data / "rows.jsonl")[0].images[0]).read_bytes())
    dataset = to_dataset([TrainingExample(("a.png",), "Who?", "<bo>", "yes_no_name")], tmp_path, 0)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png: can't be read"):
        prompt_lengths(dataset, processor)


def test_a_recipe_enlarges_photos():
    from repic_core.training.recipe import TuneArguments, prepare_tuning

    processor = make_processor()
    model = torch.nn.Linear(2, 2)
    prepare_tuning(model, processor, TuneArguments(min_pixels=300 * 300, max_pixels=400 * 400))
    assert dict(processor.image_processor.size) == {"shortest_edge": 300 * 300, "longest_edge": 400 * 400}
    with pytest.raises(ValueError, match="min_pixels 9000000 is more than max_pixels 160000"):
        prepare_tuning(model, processor, TuneArguments(min_pixels=3000 * 3000))
