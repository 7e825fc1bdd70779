"""Adapters in the shapes that other trainers save, on old and present names; every tensor lands or is named."""

import json
import logging

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers.families import save_family
from helpers.tiny_model import save_tiny
from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.models.loading import ModelError, load_model
from repic_core.publish.merge import merge_adapter

TEXT = "model.language_model.layers"
TOWER = "model.visual.blocks"
LINEARS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj")
SUFFIXES = ["q_proj", "v_proj", "gate_proj"]
ALL_TEXT = [f"{TEXT}.{n}.{linear}" for n in range(4) for linear in LINEARS]
GATES_OF_TOWER = [f"{TOWER}.{n}.mlp.gate_proj" for n in range(3)]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|v_proj|gate_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward"
    r"|ffn|dense)\.(?:(?:q_proj|v_proj|gate_proj)))"
)


def old(name):
    """A name before transformers 4.52."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


OLD_TEXT = [old(name) for name in ALL_TEXT]
# By trainer: the adapted layers, and what its configuration says of them, in old names.
SHAPES = {
    "ms-swift, tower frozen": (
        ALL_TEXT,
        {"target_modules": r"^(model(?=\.).*\.(q_proj|v_proj|gate_proj))$"},
    ),
    "ms-swift, with the tower": (
        [*ALL_TEXT, *GATES_OF_TOWER],
        {"target_modules": r"^((model|visual)(?=\.).*\.(gate_proj|v_proj|q_proj))$"},
    ),
    "ms-swift, the tower alone": (
        GATES_OF_TOWER,
        {"target_modules": r"^(visual(?=\.).*\.(gate_proj|v_proj|q_proj))$"},
    ),
    "LLaMA-Factory, all linear": ([*ALL_TEXT, *GATES_OF_TOWER], {"target_modules": SUFFIXES}),
    "LLaMA-Factory, names": (ALL_TEXT, {"target_modules": OLD_TEXT}),
    "LLaMA-Factory, regex": (
        ALL_TEXT,
        {"target_modules": r"^(?!.*(?:visual|patch_embed|merger)).*(?:q_proj|v_proj|gate_proj).*"},
    ),
    "Unsloth": (ALL_TEXT, {"target_modules": UNSLOTH, "task_type": None}),
    "VLM-R1": (ALL_TEXT, {"target_modules": [*OLD_TEXT[::-1]]}),
    "VLM-R1, shortened by PEFT": (
        ALL_TEXT,
        {"target_modules": ["q_proj", "v_proj", *(f"layers.{n}.mlp.gate_proj" for n in range(4))]},
    ),
    "the authors": ([*ALL_TEXT, "lm_head"], {"target_modules": [*OLD_TEXT, "lm_head"]}),
    "excluded names": (
        ALL_TEXT,
        {"target_modules": SUFFIXES, "exclude_modules": [old(name) for name in GATES_OF_TOWER]},
    ),
    "an excluding regex": (ALL_TEXT, {"target_modules": SUFFIXES, "exclude_modules": r"^visual\..*"}),
    "some layers": (
        [name for name in ALL_TEXT if name.split(".")[3] in "02"],
        {"target_modules": SUFFIXES, "layers_to_transform": [0, 2], "layers_pattern": "model.layers"},
    ),
    "one layer": (
        ALL_TEXT[3:6],
        {"target_modules": SUFFIXES, "layers_to_transform": 1, "layers_pattern": ["layers"]},
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"), layers=4, depth=3)


@pytest.fixture(scope="module")
def seen(base):
    """Inputs with a photo."""
    _, processor = load_model(base, device="cpu")
    photo = Image.effect_noise((96, 96), 90).convert("RGB")
    item = CaptionItem(photo, [Concept(name="bo", image=photo.resize((32, 32)), info="a toy")])
    return Captioner(load_model(base, device="cpu")[0], processor).inputs([item])


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def tuned(base, path, layers, **options):
    """A random LoRA on these layers, saved to `path`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    options = {"r": 4, "task_type": "CAUSAL_LM", "init_lora_weights": False, **options}
    model = get_peft_model(load_model(base, device="cpu")[0], LoraConfig(target_modules=layers, **options))
    model.eval().save_pretrained(path)
    return model


def rewrite(path, config=None, tensors=None):
    """Change the saved configuration, and the names or tensors of the file (a function of the dict)."""
    if config:
        file = path / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if tensors:
        file = path / "adapter_model.safetensors"
        save_file(tensors(load_file(file)), file, metadata={"format": "pt"})


def in_old_names(weights):
    prefix = "base_model.model."
    return {prefix + old(name.removeprefix(prefix)): value for name, value in weights.items()}


def adapted(model):
    from peft.tuners.lora import LoraLayer

    names = (name for name, module in model.named_modules() if isinstance(module, LoraLayer))
    return {name.removeprefix("base_model.model.") for name in names}


@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_of_other_trainers_change_what_they_changed(base, seen, tmp_path, caplog, shape):
    layers, config = SHAPES[shape]
    model = tuned(base, tmp_path, layers)
    rewrite(tmp_path, config, in_old_names)
    caplog.set_level(logging.INFO, "repic_core.models.adapters")
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    assert adapted(loaded) == set(layers)
    assert torch.equal(logits(loaded, seen), logits(model, seen))
    assert not torch.allclose(
        logits(loaded, seen), logits(load_model(base, device="cpu")[0], seen), atol=1e-3
    )
    tower = sum("visual" in name for name in layers)
    said = f"adapter {tmp_path}: {len(layers)} layers adapted, {tower} of them in the vision tower"
    assert said in caplog.messages


@pytest.mark.parametrize("shape", SHAPES)
def test_their_tensors_may_be_renamed_already(base, seen, tmp_path, shape):
    """As if a newer library had saved them again and kept the configuration."""
    layers, config = SHAPES[shape]
    model = tuned(base, tmp_path, layers)
    rewrite(tmp_path, config)
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    assert adapted(loaded) == set(layers) and torch.equal(logits(loaded, seen), logits(model, seen))


@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("named", [old, str])
def test_ranks_and_alphas_by_layer(base, seen, tmp_path, named, renamed):
    """Their keys are the ends of names, or regexes of them."""
    ranks = {f"{TEXT}.0.self_attn.q_proj": 2, f"{TEXT}.1.mlp.gate_proj": 6, "v_proj": 3}
    alphas = {rf"^{TEXT}\.2\..*": 32, f"{TEXT}.0.self_attn.q_proj": 1, "layers.3.mlp.gate_proj": 5}
    model = tuned(base, tmp_path, ALL_TEXT, rank_pattern=ranks, alpha_pattern=alphas)
    config = {
        "target_modules": [named(name) for name in ALL_TEXT],
        "rank_pattern": {named(name): value for name, value in ranks.items()},
        "alpha_pattern": {named(name): value for name, value in alphas.items()},
    }
    rewrite(tmp_path, config, in_old_names if renamed else None)
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    own = {name: (m.r, m.scaling) for name, m in loaded.named_modules() if hasattr(m, "lora_A")}
    assert own == {name: (m.r, m.scaling) for name, m in model.named_modules() if hasattr(m, "lora_A")}
    assert len({str(value) for value in own.values()}) > 4
    assert torch.equal(logits(loaded, seen), logits(model, seen))


@pytest.mark.parametrize(
    "saved", [["model.embed_tokens"], ["embed_tokens"], ["visual.merger", "model.norm"], ["merger"]]
)
def test_layers_that_were_trained_themselves(base, seen, tmp_path, saved):
    present = [
        {"model.embed_tokens": "language_model.embed_tokens", "model.norm": "language_model.norm"}.get(x, x)
        for x in saved
    ]
    model = tuned(base, tmp_path, ALL_TEXT, modules_to_save=present)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.5)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, {"target_modules": OLD_TEXT, "modules_to_save": saved}, in_old_names)
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    assert torch.equal(logits(loaded, seen), logits(model, seen))
    rewrite(tmp_path, tensors=lambda w: {name: value for name, value in w.items() if "lora_" in name})
    with pytest.raises(ModelError, match=r"its file lacks 'base_model\..*modules_to_save"):
        load_model(base, adapter=tmp_path, device="cpu")


FIRST = f"base_model.model.{TEXT}.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {**w, FIRST.replace(".0.", ".9."): w[FIRST].clone()},
            r"1 of its tensors have no place.*layers\.9",
        ),
        (
            lambda w: {**w, FIRST.replace("lora_A", "lora_C"): w[FIRST].clone()},
            r"1 of its tensors .*lora_C",
        ),
        (
            lambda w: {k.replace("layers", "blocks"): v for k, v in w.items()},
            r"24 of its tensors .*blocks",
        ),
        (lambda w: {k: v for k, v in w.items() if k != FIRST}, r"1 are missing, first .*layers\.0.*lora_A"),
        (
            lambda w: {k: v for k, v in w.items() if ".layers.3." not in k},
            r"tensors for 9 layers and lacks those of 3, first .*layers\.3",
        ),
        (lambda w: {k.removeprefix("base_model.model."): v for k, v in w.items()}, r"not named as PEFT does"),
        (lambda w: {k: v[..., :2].contiguous() for k, v in w.items()}, "size mismatch"),
    ],
)
@pytest.mark.parametrize("targets", [OLD_TEXT, ALL_TEXT, r".*(model|text)\..*layers.*(q|v|gate)_proj"])
def test_every_tensor_lands_or_is_named(base, tmp_path, change, message, targets):
    tuned(base, tmp_path, ALL_TEXT)
    rewrite(tmp_path, {"target_modules": targets}, change)
    with pytest.raises(ModelError, match=message) as error:
        load_model(base, adapter=tmp_path, device="cpu")
    assert str(error.value).startswith(f"adapter {tmp_path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families(family, tmp_path):
    base = save_family(family, tmp_path / "base")
    layers = [f"{TEXT}.{n}.self_attn.{part}" for n in range(2) for part in ("q_proj", "v_proj")]
    model = tuned(base, tmp_path / "adapter", layers)
    rewrite(tmp_path / "adapter", {"target_modules": r"^(model(?=\.).*\.(q_proj|v_proj))$"}, in_old_names)
    loaded, processor = load_model(base, adapter=tmp_path / "adapter", device="cpu")
    inputs = processor.tokenizer("a little toy", return_tensors="pt")
    assert adapted(loaded) == set(layers) and torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_the_adapters_own_name_may_be_in_the_names(base, seen, tmp_path):
    """As in a state dict that was saved without PEFT."""
    model = tuned(base, tmp_path, ALL_TEXT)
    rewrite(tmp_path, tensors=lambda w: {k.replace(".weight", ".default.weight"): v for k, v in w.items()})
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    assert torch.equal(logits(loaded, seen), logits(model, seen))


def test_an_adapter_of_the_model_without_its_head(base, seen, tmp_path):
    model = tuned(base, tmp_path, [*ALL_TEXT, *GATES_OF_TOWER])
    bare = [name.removeprefix("model.") for name in (*ALL_TEXT, *GATES_OF_TOWER)]
    rewrite(
        tmp_path,
        {"target_modules": bare},
        lambda w: {name.replace("model.model.", "model."): value for name, value in w.items()},
    )
    loaded, _ = load_model(base, adapter=tmp_path, device="cpu")
    assert torch.equal(logits(loaded, seen), logits(model, seen))


def test_they_are_merged_like_any(base, seen, tmp_path):
    layers, config = SHAPES["ms-swift, tower frozen"]
    model = tuned(base, tmp_path / "adapter", layers)
    rewrite(tmp_path / "adapter", config, in_old_names)
    options = {"dtype": "float32", "system": None, "max_new_tokens": 2, "device": "cpu"}
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged", **options)
    merged, _ = load_model(tmp_path / "merged", device="cpu")
    torch.testing.assert_close(logits(merged, seen), logits(model, seen), rtol=1e-4, atol=1e-4)
