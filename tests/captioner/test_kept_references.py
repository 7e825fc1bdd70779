"""With kept prefixes the captions are the same, in all families; nothing that has changed is reused."""

import json
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LogitsProcessor

from helpers.families import save_family
from helpers.places import ROOT
from repic_core.captioner import kept_references as prefix_cache
from repic_core.captioner.caption_files import CaptionItem, settings_path
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.models.loading import load_model
from repic_core.models.parts import conditional_model, rope_positions
from repic_core.toyworld.world import make_sample

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NEW_TOKENS = 8
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        family: load_model(save_family(family, tmp_path_factory.mktemp(family)), device="cpu")
        for family in FAMILIES
    }


@pytest.fixture
def pair(models):
    """A captioner and one that keeps prefixes, with the same model."""
    arguments = models["qwen3_vl"]
    return (kind(*arguments, max_new_tokens=NEW_TOKENS) for kind in (Captioner, PrefixCaptioner))


@pytest.fixture
def photos(tmp_path):
    """Four references, some of which are resized; then three queries of three sizes."""
    sizes = [(48, 48), (50, 33), (48, 48), (64, 200), (96, 96), (333, 250), (64, 96)]
    return [str(noise(tmp_path / f"{i}.png", i, size)) for i, size in enumerate(sizes)]


def noise(path, seed, size):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def concepts(photos, k):
    return [Concept(name=f"{'bdfg'[i]}o", image=photos[i], info=f"toy {i}") for i in range(k)]


def generated(captioner, query, references, **generation):
    """Tokens (NEW_TOKENS,) and logits (NEW_TOKENS, vocabulary), both padded with zeros."""
    inputs = captioner._prepare([CaptionItem(query, references)], **generation)
    out = captioner._run(inputs, return_dict_in_generate=True, output_logits=True, **generation)
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(out.logits)


def same(plain, keeping, query, references, reused, **generation):
    """Both generate the same tokens, step by step; returns the logits (steps, vocabulary)."""
    torch.manual_seed(7)
    tokens, logits = generated(plain, query, references, **generation)
    torch.manual_seed(7)
    ours, our_logits = generated(keeping, query, references, **generation)
    assert ours == tokens
    torch.testing.assert_close(our_logits, logits, **CLOSE)
    assert keeping.reused is reused
    return logits


@pytest.mark.parametrize("style", ["tag", "numbered"])
def test_the_prompt_is_the_same_in_both_styles(models, photos, style):
    bo = Concept("<bo>", "Bo the dog", photos[0], "brown")
    item = CaptionItem(photos[4], [bo, *concepts(photos, 2)[1:]])
    kinds = (kind(*models["qwen2_5_vl"], reference_style=style) for kind in (Captioner, PrefixCaptioner))
    plain, keeping = (kind._prepare([item])["input_ids"] for kind in kinds)
    assert torch.equal(plain, keeping)
    text = models["qwen2_5_vl"][1].tokenizer.decode(plain[0])
    assert ("1. Name: <Bo the dog>, Info: brown" in text) is (style == "numbered")
    assert ("2. Name: <do>" in text) is (style == "numbered")


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_equal_those_without(models, photos, family, count):
    plain, keeping = (
        kind(*models[family], max_new_tokens=NEW_TOKENS) for kind in (Captioner, PrefixCaptioner)
    )
    references = concepts(photos, count)
    first = []
    for number, query in enumerate(photos[4:]):
        logits = same(plain, keeping, query, references, bool(number) if count else None)
        first.append(logits[0])
        text = plain.caption(query, references)
        assert keeping.caption(query, references) == text
        assert [*keeping.stream(query, references)][-1:] == ([text] if text else [])
    assert min((a - b).abs().max() for a, b in pairwise(first)) > 0.01  # the query is seen


@pytest.mark.parametrize("family", FAMILIES)
def test_several_photos_a_concept_and_images_in_memory(models, photos, family):
    plain, keeping = (
        kind(*models[family], max_new_tokens=NEW_TOKENS) for kind in (Captioner, PrefixCaptioner)
    )
    opened = Image.open(photos[1])
    references = [
        Concept(name="bo", image=[photos[0], opened, photos[3]]),
        Concept(name="do", image=photos[2]),
    ]
    one = same(plain, keeping, photos[5], references, False)
    same(plain, keeping, Image.open(photos[4]), references, True)
    fewer = [replace(references[0], image=[photos[0], photos[3]]), references[1]]
    assert (same(plain, keeping, photos[5], fewer, False)[0] - one[0]).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_positions_are_those_of_the_whole_prompt(models, photos, family):
    """The positions of the prefix alone are the first of them, for any size of the query."""
    keeping = PrefixCaptioner(*models[family])
    for query in photos[4:]:
        item = CaptionItem(query, concepts(photos, 4))
        stock, ours = keeping.inputs([item]), keeping._prepare([item])
        assert torch.equal(ours["input_ids"], stock["input_ids"])
        assert torch.equal(ours["attention_mask"], stock["attention_mask"])
        whole, _ = rope_positions(keeping.model, stock["input_ids"], stock["attention_mask"], stock)
        assert torch.equal(ours["position_ids"], whole)
        (prefix,) = keeping._kept.values()
        length = prefix.fields["input_ids"].shape[1]
        assert torch.equal(keeping._positions(prefix.fields), whole[..., :length])
        patches = ours["image_grid_thw"].prod(-1).sum()
        assert len(ours["pixel_values"]) == patches < stock["image_grid_thw"].prod(-1).sum()
        assert prefix.cache.get_seq_length() == length == ours["past_key_values"].get_seq_length()


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_used_and_told_apart(photos, tmp_path, family, task):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model, processor = load_model(save_family(family, tmp_path / family), device="cpu")
    config = LoraConfig(r=4, target_modules=r".*(q_proj|v_proj|qkv)", init_lora_weights=False, task_type=task)
    model = get_peft_model(model, config).eval()
    plain, keeping = (
        kind(model, processor, max_new_tokens=NEW_TOKENS) for kind in (Captioner, PrefixCaptioner)
    )
    references = concepts(photos, 4)
    tuned = same(plain, keeping, photos[4], references, False)
    same(plain, keeping, photos[5], references, True)
    with model.disable_adapter():
        base = same(plain, keeping, photos[4], references, False)
    assert (base[0] - tuned[0]).abs().max() > 0.01
    same(plain, keeping, photos[4], references, True)
    layer = next(m for m in model.modules() if isinstance(getattr(m, "scaling", None), dict))
    layer.scaling["default"] *= 3
    same(plain, keeping, photos[4], references, False)
    with torch.no_grad():
        conditional_model(model).model.language_model.embed_tokens.weight.mul_(1.5)
    keeping.forget()
    same(plain, keeping, photos[4], references, False)


def test_the_toy_base_says_the_same():
    """In scenes of the toy world, which the model can describe."""
    model, processor = load_model(ROOT / "assets" / "toy-base", device="cpu")
    plain, keeping = (
        kind(model, processor, system=None, max_new_tokens=40) for kind in (Captioner, PrefixCaptioner)
    )
    rng, texts = np.random.default_rng(0), set()
    for k in (1, 2, 4):
        sample = make_sample(k, rng, "test")
        trio = zip(sample.names, sample.photos, sample.infos, strict=True)
        references = [Concept(name=name, image=Image.fromarray(x), info=info) for name, x, info in trio]
        for number, scene in enumerate((sample.scene, make_sample(2, rng, "test").scene)):
            query = Image.fromarray(scene.image)
            texts.add(text := plain.caption(query, references))
            assert keeping.caption(query, references) == text
            assert keeping.reused is bool(number)
            streamed = list(keeping.stream(query, references))
            assert streamed[-1] == text and len(streamed) > 1
    assert len(texts) == 6


def test_nothing_that_has_changed_is_reused(pair, photos, tmp_path, monkeypatch):
    plain, keeping = pair
    bo, do = references = concepts(photos, 2)
    query = photos[4]
    before = same(plain, keeping, query, references, False)
    changes = {
        "info": [bo, replace(do, info="a toy of mine")],
        "tag": [bo, Concept(name="mo", image=do.image, info=do.info)],
        "order": [do, bo],
        "photo": [bo, replace(do, image=photos[2])],
        "fewer": [bo],
    }
    for change, other in changes.items():
        after = same(plain, keeping, query, other, False)
        assert (after[0] - before[0]).abs().max() > 1e-3, change
    keeping.forget()
    same(plain, keeping, query, references, False)
    noise(photos[0], 99, (48, 48))  # another photo under the same name
    after = same(plain, keeping, query, references, False)
    assert (after[0] - before[0]).abs().max() > 1e-3
    for captioner in (plain, keeping):
        captioner.system = "inference"
    same(plain, keeping, query, references, False)
    same(plain, keeping, query, references, True)
    size = dict(plain.processor.image_processor.size) | {"longest_edge": 2048}
    monkeypatch.setattr(plain.processor.image_processor, "size", size)
    same(plain, keeping, query, references, False)


def test_the_question_may_change(pair, photos):
    plain, keeping = pair
    references = concepts(photos, 4)
    asked = [c.caption(photos[4], references, "Who is this?") for c in (plain, keeping)]
    assert asked[0] == asked[1] and keeping.reused is False
    asked = [
        c.caption(photos[4], references, "Name: <mo>, Info: who is on the left?") for c in (plain, keeping)
    ]
    assert asked[0] == asked[1] and keeping.reused is True


def test_the_least_recently_used_is_dropped(models, photos):
    keeping = PrefixCaptioner(*models["qwen2_5_vl"], max_new_tokens=1, keep=2)
    one, two, three = ([concept] for concept in concepts(photos, 3))
    for references, reused in [
        (one, False),
        (two, False),
        (one, True),
        (three, False),  # drops two
        (one, True),
        (two, False),  # drops three
        (one, True),
        (three, False),
    ]:
        keeping.caption(photos[4], references)
        assert keeping.reused is reused
        assert len(keeping._kept) <= 2


def test_reused_references_are_not_opened_nor_encoded(pair, photos, monkeypatch):
    _, keeping = pair
    opened, patches, columns = [], [], []
    real = prefix_cache.open_for_model
    monkeypatch.setattr(prefix_cache, "open_for_model", lambda image: opened.append(image) or real(image))
    model = keeping.model.model
    hooks = [
        model.visual.register_forward_pre_hook(lambda _, args: patches.append(len(args[0]))),
        model.language_model.register_forward_pre_hook(
            lambda _, args, fields: columns.append(fields["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    try:
        keeping.caption(photos[4], concepts(photos, 4), max_new_tokens=1)
        assert sorted(opened) == sorted([*photos[:4], photos[4]]) and len(patches) == len(columns) == 2
        prompt = keeping.inputs([CaptionItem(photos[4], concepts(photos, 4))])
        assert sum(columns) == prompt["input_ids"].shape[1] and sum(patches) == len(prompt["pixel_values"])
        suffix = patches[1], columns[1]
        opened.clear(), patches.clear(), columns.clear()
        keeping.caption(photos[4], concepts(photos, 4), max_new_tokens=1)
    finally:
        for hook in hooks:
            hook.remove()
    assert opened == [photos[4]] and (*patches, *columns) == suffix


def test_a_closed_stream_spoils_nothing(pair, photos):
    plain, keeping = pair
    references, threads = concepts(photos, 4), threading.active_count()
    for query in photos[4:]:
        stream = keeping.stream(query, references, min_new_tokens=300, max_new_tokens=300)
        next(stream)
        stream.close()
        assert threading.active_count() == threads
    same(plain, keeping, photos[4], references, True)
    same(plain, keeping, photos[5], references, True)


class Waits(LogitsProcessor):
    """Holds a generation at its second token until `go`."""

    def __init__(self):
        self.calls, self.here, self.go = 0, threading.Event(), threading.Event()

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == 2:
            self.here.set()
            assert self.go.wait(60)
        return scores


@pytest.mark.parametrize("other", [4, 1], ids=["same prefix", "another"])
def test_two_captions_at_once_do_not_mix(pair, photos, other):
    plain, keeping = pair
    wanted = [
        plain.caption(photos[5], concepts(photos, 4)),
        plain.caption(photos[6], concepts(photos, other)),
    ]
    keeping.caption(photos[4], concepts(photos, 4))
    waits, found = Waits(), []
    first = threading.Thread(
        target=lambda: found.extend(keeping.stream(photos[5], concepts(photos, 4), logits_processor=[waits]))
    )
    first.start()
    assert waits.here.wait(60)
    second = keeping.caption(photos[6], concepts(photos, other))  # begins and ends during the first
    waits.go.set()
    first.join()
    assert [found[-1], second] == wanted


def test_sampling_draws_as_without(pair, photos):
    plain, keeping = pair
    options = {"do_sample": True, "temperature": 2.0, "top_k": 50}
    same(plain, keeping, photos[4], concepts(photos, 4), False, **options)
    same(plain, keeping, photos[5], concepts(photos, 4), True, **options)


def test_beams_and_several_answers_go_without(pair, photos, monkeypatch):
    plain, keeping = pair
    references = concepts(photos, 4)
    for options in ({"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}):
        captions = []
        for captioner in (plain, keeping):
            torch.manual_seed(0)
            captions.append(captioner.caption(photos[4], references, **options))
        assert captions[0] == captions[1] and keeping.reused is None
    monkeypatch.setattr(keeping.model.generation_config, "num_beams", 2)
    assert keeping.caption(photos[4], references) == plain.caption(photos[4], references)


@pytest.mark.parametrize("size", [1, 3])
def test_files_of_captions_are_those_without(pair, photos, tmp_path, size):
    """Batches of items with different numbers of references; the last batch, of one item, may be reused."""
    files = []
    for captioner in pair:
        captioner.batch_size = size
        items = [CaptionItem(photos[4 + k % 3], concepts(photos, k)) for k in (4, 2, 0, 4)]
        items.append(CaptionItem(photos[5], concepts(photos, 4), reference_photos=False))
        out = tmp_path / f"{type(captioner).__name__}.json"
        captioner.caption_many(items, out, progress=False)
        files.append((out.read_bytes(), settings_path(out).read_bytes()))
    assert files[0] == files[1]


def test_without_reference_photos_nothing_is_kept(pair, photos):
    _, keeping = pair
    keeping.caption(photos[4], concepts(photos, 1))
    keeping._generate([CaptionItem(photos[4], concepts(photos, 4), reference_photos=False)])
    assert keeping.reused is None and len(keeping._kept) == 1


def test_errors_are_those_without(pair, photos, tmp_path):
    """Nothing that is only half encoded is kept."""
    plain, keeping = pair
    half = tmp_path / "half.png"
    with open(photos[0], "rb") as photo:
        half.write_bytes(photo.read()[:200])
    do = Concept(name="do", image=photos[1])
    for query, image, question in [
        (photos[4], tmp_path / "none.jpg", "Who?"),
        (photos[4], half, "Who?"),
        (photos[4], tmp_path, "Who?"),
        (photos[4], photos[0], "Who?<|vision_start|>"),
        (tmp_path / "none.jpg", photos[0], "Who?"),
    ]:
        said = []
        for captioner in (plain, keeping):
            for caption in (captioner.caption, lambda *a, c=captioner: list(c.stream(*a))):
                with pytest.raises(ValueError) as error:
                    caption(query, [do, Concept(name="bo", image=image)], question)
                said.append(str(error.value))
        assert len(set(said)) == 1 and not keeping._kept
    same(plain, keeping, photos[4], [do], False)


def test_the_benchmark_prints_what_it_measured(tmp_path, capsys):
    arguments = [
        "--repeats",
        "1",
        "--references",
        "1",
        "--tokens",
        "3",
        "--out",
        str(tmp_path / "found.json"),
    ]
    assert main(["benchmark", "kept-references", "--preset", "cpu", *arguments]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["seconds"]) == ["without", "miss", "hit"]
    for case, spent in found["seconds"].items():
        assert 0 < spent["first"] < spent["total"] and spent["streamed"] > 0
        assert found["raw_seconds"][case] == [spent]
    for name in ("first", "streamed", "total"):
        without, hit = (found["seconds"][case][name] for case in ("without", "hit"))
        assert found[f"{name}_ratio"] == pytest.approx(without / hit)
    # a photo of 280 x 280 is 100 tokens; both photos have a start and an end
    assert found["prompt_tokens"] > found["prefix_tokens"] + 102 > 204
    printed = capsys.readouterr().out
    assert "6,453,888 parameters" in printed and found["machine"]["date"] in printed
    assert len([line for line in printed.splitlines() if line.startswith("| ")]) == 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "dynamic"}])
def test_other_caches_are_generated_as_usual(models, photos, monkeypatch, family, options):
    """Asked for in the call, or in the model's own settings."""
    plain, keeping = (
        kind(*models[family], max_new_tokens=NEW_TOKENS) for kind in (Captioner, PrefixCaptioner)
    )
    query, references = photos[5], concepts(photos, 2)
    want = plain.caption(query, references)
    assert keeping.caption(query, references) == want and keeping.reused is False
    assert keeping.caption(query, references, **options) == want and keeping.reused is None
    assert [*keeping.stream(query, references, **options)][-1:] == ([want] if want else [])
    assert keeping.caption(query, references, use_cache=True) == want and keeping.reused
    for name, value in options.items():
        monkeypatch.setattr(keeping.model.generation_config, name, value)
    assert keeping.caption(query, references) == want and keeping.reused is None
