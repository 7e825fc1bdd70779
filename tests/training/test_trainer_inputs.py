"""Prompts, photos, models and generation settings that RePIC does not use: still the same as stock TRL."""

import logging

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from trl import GRPOTrainer

from helpers.families import save_family
from helpers.stock import batch_of, log_probs, make, same_run
from repic_core.models.loading import load_model
from repic_core.models.parts import conditional_model
from repic_core.training import grpo
from repic_core.training.groups import find_groups, split_by_group
from repic_core.training.photos import EachPhotoOnce, undecoded
from repic_core.training.trainer import SharedPrefixGRPOTrainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of eight photos of noise."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return [str(path) for path in paths]


def user(text):
    return [{"role": "user", "content": text}]


def images(rows, feature=None):
    return datasets.Dataset.from_list(rows).cast_column("images", datasets.List(feature or datasets.Image()))


def with_transform(photos):
    def opened(batch):
        return {**batch, "images": [[Image.open(path) for path in row] for row in batch["images"]]}

    found = datasets.Dataset.from_list([{"prompt": user("Who?"), "images": [photo]} for photo in photos])
    found.set_transform(opened)
    return found


def streamed(photos):
    def rows():
        for number, photo in enumerate(photos):
            yield {"prompt": user(f"Who is this {number}?"), "images": [Image.open(photo)]}

    return datasets.IterableDataset.from_generator(rows)


DATASETS = {
    "one text for all photos": lambda p: images([{"prompt": user("Who?"), "images": [one]} for one in p]),
    "texts only": lambda p: datasets.Dataset.from_list([{"prompt": user(f"Who is {i}?")} for i in range(8)]),
    "plain texts": lambda p: datasets.Dataset.from_list([{"prompt": f"Who is {i}?"} for i in range(8)]),
    "no photos": lambda p: datasets.Dataset.from_list(
        [{"prompt": user(f"Who is {i}?"), "images": []} for i in range(8)]
    ),
    "one column": lambda p: datasets.Dataset.from_list(
        [{"prompt": user("Who?"), "image": one} for one in p]
    ).cast_column("image", datasets.Image()),
    "gray": lambda p: images(
        [{"prompt": user("Who?"), "images": [one]} for one in p], datasets.Image(mode="L")
    ),
    "transform": with_transform,
    "streamed": streamed,
}


@pytest.mark.parametrize("kind", DATASETS)
def test_datasets_of_other_kinds(base, photos, tmp_path, kind):
    rows = DATASETS[kind](photos)
    settings = {"shuffle_dataset": False} if kind == "streamed" else {}
    same_run(base, None, tmp_path, rows=rows, max_steps=2, **settings)


@pytest.mark.parametrize("kind", ["one column", "streamed", "one text for all photos"])
def test_groups_are_found_in_them(base, photos, tmp_path, kind):
    settings = {"shuffle_dataset": False} if kind == "streamed" else {}
    own = make(SharedPrefixGRPOTrainer, base, None, tmp_path, rows=DATASETS[kind](photos), **settings)
    own._generate_and_score_completions(next(iter(own.get_train_dataloader())))
    assert own._prompt_index == [0, 0, 0, 0, 1, 1, 1, 1]


def mixed(photos):
    """Eight rows, every other one of them without photos; the others show one or two."""
    rows = [photos[i : i + 1 + i % 4 // 2] if i % 2 else [] for i in range(8)]
    return images([{"prompt": user(f"Who is this {i}?"), "images": row} for i, row in enumerate(rows)])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_rows_with_and_without_photos_in_a_batch(family, tmp_path):
    """TRL's own trainer can't mix them, so it computes each group of the batch alone."""
    base = save_family(family, tmp_path / "base")
    photos = [Image.effect_noise((48, 48), 50 + 20 * i).convert("RGB") for i in range(8)]
    settings = {"rows": mixed(photos), "per_device_train_batch_size": 16, "shuffle_dataset": False}
    own, stock = (
        make(kind, base, None, tmp_path, **settings) for kind in (SharedPrefixGRPOTrainer, GRPOTrainer)
    )
    stock.model.load_state_dict(own.model.state_dict())
    batch = batch_of(own)
    assert batch["num_images"] == [0] * 4 + [1] * 4 + [0] * 4 + [2] * 4
    whole = log_probs(own, batch)[0]
    parts = split_by_group(batch, 4, shuffle=False)
    assert [part["pixel_values"] is None for part in parts] == [True, False, True, False]
    want = []
    for part in parts:
        copies = {name: part[name] for name in ("pixel_values", "image_grid_thw")}
        if copies["pixel_values"] is not None:  # TRL holds the images of every row, not of every group
            copies = {name: torch.cat([value] * 4) for name, value in copies.items()}
        want.append(log_probs(stock, {**part, **copies})[0])
    torch.testing.assert_close(whole, torch.cat(want), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_probs(own, batch, 4)[0], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "split",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},  # groups are spread
    ],
)
def test_a_micro_batch_without_photos_is_a_step_like_any(base, photos, tmp_path, split):
    found = make(
        SharedPrefixGRPOTrainer, base, None, tmp_path, rows=mixed(photos), shuffle_dataset=False, **split
    )
    found.train()
    logs = [entry for entry in found.state.log_history if "loss" in entry]
    assert len(logs) == 3 and all(entry["grad_norm"] > 0 for entry in logs)


def test_trls_own_trainer_refuses_to_mix_them(base, photos, tmp_path):
    options = {"shared_prefix": False, "num_generations": 4, "report_to": "none", "disable_tqdm": True}
    message = r"rows: row 1 shows no photo, row 2 does, and TRL's own trainer can't put both into a batch"
    with pytest.raises(ValueError, match=message):
        grpo.train(
            *load_model(base), mixed(photos), tmp_path, per_device_train_batch_size=8, max_steps=1, **options
        )


def test_photos_that_look_different_are_different():
    """The same pixels with another palette, mode, transparency or orientation; equal photos in two objects."""
    indices = np.tile(np.uint8([0, 1]), (8, 4))
    found = []
    for palette in ([255, 0, 0, 0, 0, 255], [0, 255, 0, 0, 0, 255], [255, 0, 0, 0, 0, 255]):
        found.append(Image.fromarray(indices).convert("P"))
        found[-1].putpalette(palette)
    found.append(Image.fromarray(indices))
    turned = Image.fromarray(indices)
    turned.getexif()[0x0112] = 6
    clear = found[0].copy()
    clear.info["transparency"] = 1
    colors = np.full((4, 4, 3), 90, np.uint8)
    found += [turned, clear, Image.fromarray(colors), Image.frombytes("HSV", (4, 4), colors.tobytes())]
    index, first = find_groups(
        [[{"role": "user", "content": [{"type": "image", "image": one}]}] for one in found]
    )
    assert index == [0, 1, 0, 2, 3, 4, 5, 6] and first == [0, 1, 3, 4, 5, 6, 7]

    seen = []

    def patch(photos, **_):
        seen.extend(photos)
        return {
            "image_grid_thw": [[1, 1, 1]] * len(photos),
            "pixel_values": torch.arange(len(photos))[:, None],
        }

    once = EachPhotoOnce(patch)
    fields = once([[found[0], found[1]], [found[2], found[5]]])
    assert once.index == [0, 1, 0, 2] and len(seen) == 3
    assert fields["pixel_values"].flatten().tolist() == [0, 1, 0, 2] and len(fields["image_grid_thw"]) == 4


def test_only_plain_photo_columns_are_left_to_the_trainer(photos):
    rows = [{"prompt": "Who?", "images": [photo]} for photo in photos]
    assert isinstance(undecoded({"a": images(rows)})["a"][0]["images"][0], dict)
    assert isinstance(undecoded(images(rows, datasets.Image(mode="L")))[0]["images"][0], Image.Image)
    assert isinstance(undecoded(with_transform(photos))[0]["images"][0], Image.Image)
    transformed = images(rows).with_transform(
        lambda batch: {"sizes": [row[0].size for row in batch["images"]]}
    )
    assert undecoded(transformed)[0] == {"sizes": (48, 48)}
    assert undecoded(None) is None


def frozen_vision_adapter(kind, *args, **settings):
    """An adapter on the vision tower that has an effect and is not trained; the reference is without it."""
    found = make(kind, *args, lora=LoraConfig(r=4, target_modules=r".*(q_proj|v_proj|qkv)"), **settings)
    torch.manual_seed(4)
    for name, parameter in found.model.named_parameters():
        if "visual" in name and "lora" in name:
            parameter.data.normal_(std=0.3)
            parameter.requires_grad_(False)
    return found


def other_tower(model):
    torch.manual_seed(4)
    for parameter in model.model.visual.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("case", ["adapter on the tower", "tower not that of the files"])
def test_the_reference_sees_with_its_own_tower(base, data, tmp_path, case, monkeypatch):
    """The KL term of the first step is not 0, as it would be with the policy's features."""
    from helpers import stock

    settings = {"tune": "full", "prepare": other_tower}
    if case == "adapter on the tower":
        settings = {}
        monkeypatch.setattr(stock, "make", frozen_vision_adapter)
    logs = same_run(base, data, tmp_path, max_steps=2, beta=0.04, **settings)
    assert logs[0]["kl"] > 0.01


@pytest.mark.parametrize(
    "setting", [{"use_cache": False}, {"num_beams": 2}, {"cache_implementation": "static"}]
)
def test_generation_that_is_left_to_stock(base, data, tmp_path, caplog, setting):
    with caplog.at_level(logging.WARNING):
        same_run(base, data, tmp_path, max_steps=1, generation_kwargs=setting)
    assert "not used (beam search, or generation without a plain cache)" in caplog.text


def test_a_models_own_generation_settings_count(base, data, tmp_path):
    def no_cache(model):
        model.generation_config.use_cache = False

    assert not make(SharedPrefixGRPOTrainer, base, data, tmp_path, prepare=no_cache).shares_prefix


def test_banned_tokens_stay_banned(base, data, tmp_path):
    own = make(SharedPrefixGRPOTrainer, base, data, tmp_path, generation_kwargs={"suppress_tokens": [7]})
    config = own.model.config
    assert own.generation_config.suppress_tokens == sorted([7, config.image_token_id, config.video_token_id])


def test_without_an_image_processor(base, tmp_path, caplog):
    """A tokenizer as processing class: TRL's trainer."""
    rows = DATASETS["texts only"](None)
    own = make(SharedPrefixGRPOTrainer, base, None, tmp_path, rows=rows)
    own.processing_class = own.processing_class.tokenizer
    assert own._unsupported() == "a tokenizer without image processor"


def test_rollouts_of_an_adapter_in_half_precision(base, data, tmp_path):
    """The same samples: with an adapter, stock TRL generates outside of autocast."""
    rewards = []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        found = make(kind, base, data, tmp_path, bf16=True, use_cpu=True, max_steps=2)
        torch.manual_seed(3)
        found.train()
        rewards.append([entry["reward"] for entry in found.state.log_history if "reward" in entry])
    assert rewards[0] == rewards[1]


def test_eager_attention_stays_eager(base, data, tmp_path):
    def eager(model):
        model.set_attn_implementation("eager")

    same_run(base, data, tmp_path, max_steps=1, prepare=eager)
    own = make(SharedPrefixGRPOTrainer, base, data, tmp_path, prepare=eager)
    own._generate_and_score_completions(next(iter(own.get_train_dataloader())))
    ids = torch.tensor([[3, 4, 5]])
    weights = conditional_model(own.model)(input_ids=ids, output_attentions=True).attentions
    assert len(weights) == own.model.config.get_text_config().num_hidden_layers
    assert torch.allclose(weights[0].sum(-1), torch.ones(()))


def test_the_attentions_name_is_not_saved(base, data, tmp_path):
    own = make(SharedPrefixGRPOTrainer, base, data, tmp_path, tune="full", max_steps=1)
    own.train()
    own.save_model(tmp_path / "saved")
    assert not any("grouped" in path.read_text() for path in (tmp_path / "saved").glob("*.json"))
