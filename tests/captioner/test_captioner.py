"""Captions equal `model.generate` on the processor's own inputs; files resume; errors are clear."""

import json
import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import repic_core.captioner.caption_run
from helpers.families import save_family
from helpers.tiny_model import tiny_model
from repic_core.captioner.caption_files import CaptionItem, load_captions, settings_path
from repic_core.captioner.captioner import Captioner
from repic_core.concepts.concept import Concept
from repic_core.io.images import open_image
from repic_core.models.loading import load_model
from repic_core.models.parts import hash_weights
from repic_core.models.vision import use_batched_vision
from repic_core.prompts import caption_messages
from repic_core.toyworld.model import make_processor

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def stock():
    """transformers' own model: sdpa, nothing batched."""
    return tiny_model(make_processor(), seed=1).eval()


@pytest.fixture(scope="module")
def captioner(stock):
    processor = make_processor()
    model = tiny_model(processor).eval()
    model.load_state_dict(stock.state_dict())
    model = use_batched_vision(model)
    return Captioner(model, processor, system="evaluation", batch_size=3, max_new_tokens=NEW_TOKENS)


@pytest.fixture
def photos(tmp_path):
    """References, some of the toy size and some that are resized; the last two are queries."""
    sizes = [(48, 48), (50, 33), (48, 48), (64, 200), (96, 96), (333, 250)]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(sizes))]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        noise = np.random.default_rng(i).normal(128, 60 + 10 * i, size[::-1])  # Pillow's own can't be seeded
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB").save(path)
    return paths


@pytest.fixture
def items(photos):
    ks = (4, 1, 2, 3)
    return [CaptionItem(photos[4 + i % 2], concepts(photos, k), label=f"{k}.png") for i, k in enumerate(ks)]


def concepts(photos, k):
    return [Concept(name=f"{'bdfg'[i]}o", image=photos[i], info=f"toy {i}") for i in range(k)]


def own_inputs(processor, item):
    """The reference: transformers' own way from messages (with paths) to tensors."""
    messages = caption_messages(item.query, item.references, item.question, "evaluation")
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def own_caption(model, processor, item):
    """(generated token ids, text) of `model.generate` on `own_inputs`."""
    inputs = own_inputs(processor, item)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    return new, processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_inputs_are_the_processors_own(captioner, items):
    """Every tensor, also where photos are resized, and `mm_token_type_ids`, without which rope turns 1-D."""
    for item in items:
        ours, own = captioner.inputs([item]), own_inputs(captioner.processor, item)
        assert set(ours) == set(own) >= {"input_ids", "attention_mask", "pixel_values", "mm_token_type_ids"}
        for key in own:
            assert torch.equal(ours[key], own[key]), key
    batch = captioner.inputs(items)
    assert (batch["attention_mask"][:, -1] == 1).all() and (batch["attention_mask"][1:, 0] == 0).all()


def test_tokens_equal_generate_single_and_batched(captioner, stock, items, monkeypatch):
    want = [own_caption(stock, captioner.processor, item) for item in items]
    assert len({tuple(tokens) for tokens, _ in want}) == len(items)  # otherwise this test would show little
    seen = []
    real = captioner._run

    def run(inputs, **generation):
        out = real(inputs, **generation)
        seen.extend(out[:, inputs["input_ids"].shape[1] :].tolist())
        return out

    monkeypatch.setattr(captioner, "_run", run)
    assert [captioner.caption(i.query, i.references) for i in items] == [text for _, text in want]
    assert seen == [tokens for tokens, _ in want]
    seen.clear()
    rows = captioner.caption_many(items, progress=False)  # batches of 3 and 1, padded on the left
    assert [row[2] for row in rows] == [text for _, text in want]
    pad, end = captioner.processor.tokenizer.pad_token_id, captioner.processor.tokenizer.eos_token_id
    for tokens, (wanted, _) in zip(seen, want, strict=True):
        assert tokens[: len(wanted)] == wanted and set(tokens[len(wanted) :]) <= {pad, end}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_equal_generate(photos, family, tmp_path):
    """Through `load_model`, with the family's own processor class; against stock's vision."""
    from transformers import AutoModelForImageTextToText

    folder = save_family(family, tmp_path)
    model, processor = load_model(folder, device="cpu")
    assert (
        type(processor).__name__ == {"qwen2_vl": "Qwen2VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[family]
    )
    item = CaptionItem(photos[5], concepts(photos, 3))
    _, want = own_caption(AutoModelForImageTextToText.from_pretrained(folder), processor, item)
    ours = Captioner(model, processor, max_new_tokens=NEW_TOKENS)
    assert ours.caption(item.query, item.references) == want != ""
    assert [row[2] for row in ours.caption_many([item, item], progress=False)] == [want, want]


def test_sampling_and_other_options_reach_generate(captioner, items):
    item = items[0]
    greedy = captioner.caption(item.query, item.references)
    torch.manual_seed(0)
    sampled = {
        captioner.caption(item.query, item.references, do_sample=True, temperature=5.0) for _ in range(3)
    }
    assert sampled != {greedy}
    assert greedy.startswith(captioner.caption(item.query, item.references, max_new_tokens=3))


def test_stream_grows_to_the_caption(captioner, items):
    for item in items[:2]:
        streamed = list(captioner.stream(item.query, item.references))
        assert streamed[-1] == captioner.caption(item.query, item.references)
        assert len(streamed) > 1
        assert all(b.startswith(a) for a, b in pairwise(streamed))


def test_closing_a_stream_stops_the_generation(captioner, items):
    before = threading.active_count()
    forwards = []
    hook = captioner.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        stream = captioner.stream(items[0].query, items[0].references, min_new_tokens=700, max_new_tokens=700)
        next(stream)
        stream.close()
    finally:
        hook.remove()
    assert threading.active_count() == before and len(forwards) < 600


def test_errors_in_the_streaming_thread_surface(captioner, photos, monkeypatch):
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(captioner.stream(photos[4], [], max_new_tokens=-1))

    def fails(*args, **kwargs):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(captioner.model, "generate", fails)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        list(captioner.stream(photos[4], []))


def test_rows_are_in_the_published_format(captioner, photos, tmp_path):
    """The item's tags and label if it has them, otherwise its references and its path."""
    shown = [
        CaptionItem(query=photos[4], references=concepts(photos, 2), question="Who is this?"),
        CaptionItem(photos[4], concepts(photos, 2), "Who is this?", tags=["<do>"], label="images/1.png"),
        CaptionItem(Image.open(photos[4]), concepts(photos, 2), "Who is this?"),
    ]
    rows = captioner.caption_many(shown, out=tmp_path / "new" / "captions.json", progress=False)
    assert [row[:2] + row[3:] for row in rows] == [
        [photos[4], ["<bo>", "<do>"], "Who is this?"],
        ["images/1.png", ["<do>"], "Who is this?"],
        ["", ["<bo>", "<do>"], "Who is this?"],
    ]
    assert rows[0][2] == rows[1][2] == rows[2][2]
    assert json.loads((tmp_path / "new" / "captions.json").read_text()) == rows
    assert [r.tags for r in load_captions(tmp_path / "new" / "captions.json")][1] == ("<do>",)


def counted(captioner, monkeypatch):
    """The labels of the items that are really generated from here on."""
    asked, real = [], captioner._generate

    def generate(batch, **generation):
        captions = real(batch, **generation)
        asked.extend(item.label for item in batch)
        return captions

    monkeypatch.setattr(captioner, "_generate", generate)
    return asked


def test_resumes_where_it_stopped(captioner, items, tmp_path, monkeypatch):
    path = tmp_path / "captions.json"
    rows = captioner.caption_many(items, path, progress=False)
    asked = counted(captioner, monkeypatch)
    path.write_text(json.dumps(rows[:3]))
    assert captioner.caption_many(items, path, progress=False) == rows == json.loads(path.read_text())
    assert asked == ["3.png"]
    assert captioner.caption_many(items, path, progress=False) == rows and asked == ["3.png"]
    captioner.caption_many(items, path, resume=False, progress=False)
    assert len(asked) == 5


def test_an_unreadable_photo_keeps_what_was_done(captioner, items, tmp_path, monkeypatch):
    path, bad = tmp_path / "captions.json", tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff nothing more")
    broken = [*items[:3], CaptionItem(bad, items[3].references, label=items[3].label)]
    with pytest.raises(ValueError, match=r"bad\.jpg: unreadable image .* replace the file"):
        captioner.caption_many(broken, path, progress=False)
    assert len(json.loads(path.read_text())) == 3
    asked = counted(captioner, monkeypatch)
    assert len(captioner.caption_many(items, path, progress=False)) == 4 and asked == ["3.png"]


def test_writes_while_it_runs_but_not_too_often(captioner, items, tmp_path, monkeypatch):
    sizes = []
    write = repic_core.captioner.caption_run.write_json_atomic

    def counting(path, rows, **options):
        if Path(path).suffixes == [".json"]:  # not the settings file beside it
            sizes.append(len(rows))
        return write(path, rows, **options)

    monkeypatch.setattr(repic_core.captioner.caption_run, "write_json_atomic", counting)
    monkeypatch.setattr(captioner, "batch_size", 1)
    captioner.caption_many(items, tmp_path / "a.json", progress=False, max_new_tokens=1)
    assert sizes == [4]
    sizes.clear()
    monkeypatch.setattr(repic_core.captioner.caption_run, "SAVE_SECONDS", 0)
    captioner.caption_many(items, tmp_path / "b.json", progress=False, max_new_tokens=1)
    assert sizes[:3] == [1, 2, 3] and sizes[-1] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[::-1], r"row 1: its query path is '3\.png', but '4\.png' is asked for"),
        (lambda rows: [[*rows[0][:3], "Other?"]], r"row 1: its question is 'Other\?', but 'Give"),
        (lambda rows: [rows[0], [rows[1][0], ["<x>"], *rows[1][2:]]], r"row 2: its tags is \['<x>'\]"),
        (lambda rows: [rows[0][:3]], r"row 1: not \[query path, tags, caption, question\]"),
        (lambda rows: [[*rows[0][:2], None, rows[0][3]]], "row 1: not "),
        (lambda rows: rows + rows, "holds 8 rows, but 4 are asked for"),
        (lambda rows: {"rows": rows}, "is not a list of caption rows"),
    ],
)
def test_a_file_of_other_items_is_refused(captioner, items, tmp_path, monkeypatch, change, message):
    path = tmp_path / "captions.json"
    rows = [[i.label, [c.tag for c in i.references], "a caption", i.question] for i in items]
    path.write_text(json.dumps(change(rows)))
    before, asked = path.read_bytes(), counted(captioner, monkeypatch)
    with pytest.raises(ValueError, match=rf"captions\.json.* ?{message}") as error:
        captioner.caption_many(items, path, progress=False)
    assert "delete the file or write to another" in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before and asked == []


@pytest.fixture
def begun(captioner, items, tmp_path):
    """A caption file with three of four rows, as `captioner` leaves it after an interrupt."""
    path = tmp_path / "captions.json"
    rows = captioner.caption_many(items, path, progress=False, max_new_tokens=2)
    path.write_text(json.dumps(rows[:3]))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", "made with different settings (weights was '"),
        ("system", "made with different settings (system was 'You are a captioning"),
        ("length", "made with different settings (generation was {"),
        ("image size", "made with different settings (image size was {"),
        ("template", "made with different settings (chat template was '"),
        ("info", "row 2: made with a different photo, reference, info or question"),
        ("photo", "row 1: made with a different photo, reference, info or question"),
        ("reference", "row 1: made with a different photo, reference, info or question"),
        ("no settings", "no captions.settings.json beside it"),
        ("half", "not the settings of captions.json's captions"),
    ],
)
def test_a_file_made_otherwise_is_not_gone_on_with(
    captioner, items, photos, begun, monkeypatch, change, message
):
    weight, before, options = captioner.model.lm_head.weight, begun.read_bytes(), {"max_new_tokens": 2}
    if change == "weights":
        monkeypatch.setattr(weight, "data", weight.data * 1.001)
    elif change == "system":
        monkeypatch.setattr(captioner, "system", "inference")
    elif change == "length":
        options = {"max_new_tokens": 3}
    elif change == "image size":
        size = dict(captioner.processor.image_processor.size) | {"longest_edge": 4096}
        monkeypatch.setattr(captioner.processor.image_processor, "size", size)
    elif change == "template":
        other = captioner.processor.chat_template.replace("<|im_start|>", "<|im_start|> ")
        monkeypatch.setattr(captioner.processor, "chat_template", other)
    elif change == "info":
        other = Concept(name="bo", image=photos[0], info="another toy")
        items[1] = CaptionItem(items[1].query, [other], label=items[1].label)
    elif change == "photo":
        Image.new("RGB", (96, 96)).save(photos[4])
    elif change == "reference":  # another photo under the same name, as in a world that was drawn again
        Image.new("RGB", (32, 32)).save(photos[0])
    elif change == "no settings":
        settings_path(begun).unlink()
    else:
        settings_path(begun).write_bytes(settings_path(begun).read_bytes()[:50])
    asked = counted(captioner, monkeypatch)
    with pytest.raises(ValueError) as error:
        captioner.caption_many(items, begun, progress=False, **options)
    said = str(error.value)
    assert message in said and "captions" in said and "\n" not in said
    assert said.endswith("delete the file or write to another")
    assert begun.read_bytes() == before and asked == []
    captioner.caption_many(
        items, begun, resume=False, progress=False, **options
    )  # from the start, with new settings
    assert len(asked) == 4
    assert len(captioner.caption_many(items, begun, progress=False, **options)) == 4 and len(asked) == 4


def test_what_does_not_change_captions_is_no_hindrance(
    captioner, items, photos, begun, tmp_path, monkeypatch
):
    """Photos in another folder, and other items after the finished rows."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for photo in photos:
        (moved / Path(photo).name).write_bytes(Path(photo).read_bytes())
    elsewhere = [str(moved / Path(photo).name) for photo in photos]
    again = [
        CaptionItem(elsewhere[4 + i % 2], concepts(elsewhere, k), label=f"{k}.png")
        for i, k in enumerate((4, 1, 2))
    ]
    again += [CaptionItem(photos[5], concepts(photos, 2), label="new.png"), items[3]]
    asked = counted(captioner, monkeypatch)
    assert len(captioner.caption_many(again, begun, progress=False, max_new_tokens=2)) == 5
    assert asked == ["new.png", "3.png"]
    captioner.caption_many(again, begun, progress=False, max_new_tokens=2)  # the settings cover the new rows
    assert len(asked) == 2


def test_settings_without_a_chat_template_are_older_and_are_taken(captioner, items, begun):
    old = json.loads(settings_path(begun).read_text())
    del old["chat template"]
    settings_path(begun).write_text(json.dumps(old))
    assert len(captioner.caption_many(items, begun, progress=False, max_new_tokens=2)) == 4
    assert "chat template" in json.loads(settings_path(begun).read_text())


def test_files_of_one_folder_share_no_settings(captioner, items, tmp_path, monkeypatch):
    """Names that differ only in their endings, each with a length of its own."""
    names = (
        "x.json",
        "x.txt",
        "x.jsonl",
        "x",
        "x.JSON",
        "x.txt.json",
        "x.json.txt",
        "x.y.json",
    )
    paths = [tmp_path / name for name in names]
    assert len({str(settings_path(path)) for path in paths} | set(map(str, paths))) == 2 * len(names)
    for length, path in enumerate(paths, 1):
        captioner.caption_many(items[1:2], path, progress=False, max_new_tokens=length)
    asked = counted(captioner, monkeypatch)
    for length, path in enumerate(paths, 1):
        captioner.caption_many(items[1:2], path, progress=False, max_new_tokens=length)
        with pytest.raises(ValueError, match=r"different settings \(generation was"):
            captioner.caption_many(items[1:2], path, progress=False, max_new_tokens=length + 1)
    assert asked == []


def test_older_settings_of_other_endings_are_found(captioner, items, begun):
    """They were beside ``x.txt`` as ``x.settings.json``, which is now that of ``x.json`` alone."""
    other = begun.rename(begun.with_suffix(".txt"))
    settings_path(begun).replace(begun.with_name("captions.settings.json"))
    with pytest.raises(ValueError, match=r"different settings \(generation was"):
        captioner.caption_many(items, other, progress=False, max_new_tokens=3)
    assert len(captioner.caption_many(items, other, progress=False, max_new_tokens=2)) == 4
    settings_path(other).unlink()
    begun.write_text("[]")  # now they are those of the .json
    with pytest.raises(ValueError, match=r"no captions\.txt\.settings beside it"):
        captioner.caption_many(items, other, progress=False, max_new_tokens=2)


def test_captions_without_a_cache_are_the_same(captioner, items):
    for item in items[:2]:
        want = captioner.caption(item.query, item.references)
        assert captioner.caption(item.query, item.references, use_cache=False) == want


def test_an_adapter_changes_the_hash_of_the_weights(captioner):
    from peft import LoraConfig, get_peft_model

    model = tiny_model(captioner.processor, seed=2)
    plain = hash_weights(model)
    assert plain == hash_weights(tiny_model(captioner.processor, seed=2)) != hash_weights(captioner.model)
    tuned = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    hashes = {plain, hash_weights(tuned)}
    with tuned.disable_adapter():
        hashes.add(hash_weights(tuned))
    next(m for m in tuned.modules() if isinstance(getattr(m, "scaling", None), dict)).scaling["default"] = 1.0
    hashes.add(hash_weights(tuned))
    with torch.no_grad():
        next(p for name, p in tuned.named_parameters() if "lora_B" in name)[-1, -1] = 1e-4
    hashes.add(hash_weights(tuned))
    assert len(hashes) == 5


def test_old_captions_stay_until_there_are_new_ones(captioner, items, begun, tmp_path):
    before, settings = begun.read_bytes(), settings_path(begun).read_bytes()
    broken = [CaptionItem(tmp_path / "none.jpg", items[0].references), *items[1:]]
    with pytest.raises(ValueError, match=r"none\.jpg: no such image"):
        captioner.caption_many(broken, begun, resume=False, progress=False)
    assert begun.read_bytes() == before and settings_path(begun).read_bytes() == settings


def test_a_crash_between_the_two_files_leaves_no_wrong_pair(captioner, items, begun, monkeypatch):
    """Old rows are never found beside new settings: at a new start, the rows are deleted first."""
    write = repic_core.captioner.caption_run.write_json_atomic

    def crashes(path, value, **options):
        if Path(path) == begun:
            raise OSError("disk full")
        return write(path, value, **options)

    monkeypatch.setattr(repic_core.captioner.caption_run, "write_json_atomic", crashes)
    with pytest.raises(OSError, match="disk full"):
        captioner.caption_many(items, begun, resume=False, progress=False, max_new_tokens=3)
    assert not begun.exists()


def test_a_file_cut_in_half_is_refused(captioner, items, tmp_path):
    """Wherever it was cut, even inside the bytes of a letter."""
    path = tmp_path / "captions.json"
    row = [items[0].label, ["<bo>"], "Größe", "Wer ist das?"]
    whole = json.dumps([row], ensure_ascii=False).encode()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"captions\.json: not .* was it cut off\?"):
            captioner.caption_many(items, path, progress=False)


def test_bad_photos_are_named(captioner, photos, tmp_path):
    half = tmp_path / "half.png"
    half.write_bytes(Path(photos[5]).read_bytes()[:2000])
    for path, message in {
        tmp_path / "none.jpg": r"none\.jpg: no such image",
        half: r"half\.png: unreadable image \(.*\): replace the file",
        tmp_path: "unreadable image",
        "http://127.0.0.1:9/x.png": r"x\.png: no such image",  # a typed address is not fetched
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            captioner.caption(path, [])
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"none\.jpg: no such image"):  # a reference's photo
        captioner.caption(photos[4], [Concept(name="bo", image=tmp_path / "none.jpg")])
    with pytest.raises(ValueError, match=r"half\.png: unreadable image"):  # opened lazily by the caller
        captioner.caption(Image.open(half), [])


def test_decompression_bombs_are_named(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"5\.png: has more than 200 pixels: shrink it"):
        open_image(photos[5])


def test_photos_are_turned_upright_and_opaque(captioner, photos, tmp_path):
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: rotate by 90 degrees clockwise
    photo = Image.open(photos[5])
    photo.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    assert open_image(turned).tobytes() == photo.tobytes() and open_image(turned).size == photo.size
    references = concepts(photos, 1)
    one, two = (captioner.inputs([CaptionItem(p, references)])["pixel_values"] for p in (photos[5], turned))
    assert torch.equal(one, two)
    glass = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(glass).getpixel((0, 0)) == (255, 255, 255)  # as in the processor
    assert open_image(Image.new("L", (4, 4), 7)).mode == "RGB"


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_saved_with_a_mark_is_gone_on_with(captioner, items, tmp_path, coding):
    path = tmp_path / "captions.json"
    rows = captioner.caption_many(items[:2], path, progress=False)
    for file in (path, settings_path(path)):
        file.write_bytes(file.read_text(encoding="utf-8").encode(coding))
    assert [record.caption for record in load_captions(path)] == [row[2] for row in rows]
    assert captioner.caption_many(items, path, progress=False)[:2] == rows
    assert json.loads(path.read_bytes())[:2] == rows


def test_half_an_emoji_in_a_caption_file_is_a_replacement_character(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text('[["a.jpg", ["<bo>"], "a \\ud83d dog \\ud83d\\ude00", "Who\\udc00?"]]')
    (record,) = load_captions(path)
    assert (record.caption, record.question) == ("a \ufffd dog \U0001f600", "Who\ufffd?")
    record.caption.encode()


def test_photos_of_names_that_are_no_unicode_are_captioned_and_resumed(captioner, photos, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/Zo\xeb.png")
    os.rename(photos[4], name)
    items = [CaptionItem(name, [Concept(name="bo", image=photos[0])])]
    rows = captioner.caption_many(items, tmp_path / "captions.json", progress=False)
    assert rows == captioner.caption_many(items, tmp_path / "captions.json", progress=False)
    assert load_captions(tmp_path / "captions.json")[0].query == name


def test_deep_photos_and_arrays_are_captioned_as_their_eight_bits(captioner, photos):
    with Image.open(photos[4]) as photo:
        grey = np.asarray(photo.convert("L"))
    bo = [Concept(name="bo", image=photos[0])]
    expected = captioner.caption(Image.fromarray(grey), bo)
    deep = grey.astype(np.uint16) * 257
    for query in (
        Image.fromarray(deep),
        deep,
        deep / 65535,
        Image.fromarray((grey / 255).astype(np.float32)),
    ):
        assert captioner.caption(query, bo) == expected
        row = captioner.caption_many([CaptionItem(query, bo)], progress=False)[0]
        assert row[0] == "" and row[2] == expected
    with pytest.raises(ValueError, match=r"the image: has values from -1 to 1, so what is white is unknown"):
        captioner.caption(np.array([[-1.0, 1.0]] * 2), bo)
