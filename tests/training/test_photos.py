"""Photos in a training step: what `datasets` would misread is right, and what can't be opened is named."""

import copy

import datasets
import numpy as np
import pytest
from PIL import Image

from helpers.families import varied
from helpers.killed_run import SETTINGS
from helpers.photos import HEIC, MALFORMED, encoded, halves, tiff
from repic_core.data.rows import TrainingExample, to_dataset
from repic_core.models.loading import load_model
from repic_core.training import grpo, sft
from repic_core.training.failures import TrainingError
from repic_core.training.photos import decoded_once
from repic_core.training.prompt_lengths import prompt_lengths

NOISE = encoded(Image.effect_noise((64, 48), 90).convert("RGB"), "JPEG")
RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def decoded(photo):
    kept = {"path": None, "bytes": photo} if isinstance(photo, bytes) else {"path": str(photo), "bytes": None}
    rows = decoded_once([{"images": [kept, kept]}, {"image": kept}])
    assert rows[0]["images"][0] is rows[0]["images"][1] is rows[1]["image"]
    return rows[1]["image"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", [None, 1, 6, 8])
def test_ordinary_photos_are_those_of_datasets(tmp_path, kind, turn):
    for mode in ("RGB", "L") if kind in ("JPEG", "PNG") else ("RGB",):
        image = Image.effect_noise((64, 48), 90).convert(mode)
        exif = Image.Exif()
        if turn:
            exif[0x0112] = turn
        image.save(tmp_path / "a", kind, exif=exif)
        stock = datasets.Image().decode_example({"path": str(tmp_path / "a"), "bytes": None})
        for own in (decoded(tmp_path / "a"), decoded((tmp_path / "a").read_bytes())):
            assert (own.mode, own.size, own.tobytes()) == (stock.mode, stock.size, stock.tobytes())


def test_deep_and_malformed_photos(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "deep.png")
    (tmp_path / "a.jpg").write_bytes(halves(exif=MALFORMED))
    assert (np.asarray(decoded(tmp_path / "deep.png")) == np.rint(RAMP / 257)).all()
    inverted = tiff((65535 - RAMP).astype("<u2").tobytes(), 64, 64, 16, photometric=0)
    assert np.abs(np.asarray(decoded(inverted)).astype(int) - np.rint(RAMP / 257)).max() <= 1
    turned = decoded(tmp_path / "a.jpg")
    assert turned.size == (48, 64) and turned.getpixel((4, 4))[2] > 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "cannot identify"),
        (HEIC, "is a HEIC photo"),
        (NOISE[:900], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot identify|broken PNG"),
    ],
)
def test_what_can_not_be_opened_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(OSError, match=f"{said}.*a photo in memory") as error:
            decoded(content)
        assert error.value.photo == {"path": None, "bytes": content}
    with pytest.raises(OSError, match=f"{said}.*a.jpg") as error:
        decoded(tmp_path / "a.jpg")
    assert error.value.filename == str(tmp_path / "a.jpg")


def test_a_photo_that_no_processor_takes_is_named(tmp_path):
    Image.new("RGB", (1000, 4)).save(tmp_path / "strip.png")
    with pytest.raises(OSError, match=r"is too long for the model .*strip\.png"):
        decoded(tmp_path / "strip.png")


def test_heic_is_named_before_a_training(base, tmp_path):
    (tmp_path / "a.jpg").write_bytes(HEIC)
    kept = [[{"path": str(tmp_path / "a.jpg"), "bytes": None}]]
    dataset = datasets.Dataset.from_dict({"prompt": [[{"role": "user", "content": "Who?"}]], "images": kept})
    with pytest.raises(ValueError, match=r"a\.jpg is a HEIC photo \(iPhone\): save it as JPEG"):
        prompt_lengths(dataset, load_model(base)[1])


def rows(folder, method="yes_no_name"):
    """Four rows; the photo of the second is cut off, that of the third is deep, that of the last malformed."""
    for number in range(2):
        Image.effect_noise((48, 48), 90).convert("RGB").save(folder / f"{number}.jpg")
    Image.fromarray(RAMP).save(folder / "2.jpg", "PNG")
    (folder / "3.jpg").write_bytes(halves(exif=MALFORMED))
    return [TrainingExample((f"{number}.jpg",), "Who?", "<bo>", method) for number in range(4)]


@pytest.mark.parametrize("shared", [True, False])
def test_grpo_trains_on_them_and_names_the_one_that_is_cut_off(base, tmp_path, shared):
    settings = {**SETTINGS, "root": tmp_path, "max_steps": 4, "shared_prefix": shared, "save_steps": 100}
    examples = rows(tmp_path)
    grpo.train(*load_model(base), examples, tmp_path / "whole", rewards=[(varied, 1.0)], **settings)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:700])
    with pytest.raises(TrainingError, match=rf"the photo of row 2, {tmp_path / '1.jpg'}: .*truncated"):
        grpo.train(*load_model(base), examples, tmp_path / "out", rewards=[(varied, 1.0)], **settings)


def test_sft_trains_on_them_and_names_the_one_that_is_cut_off(base, tmp_path):
    settings = {"root": tmp_path, "max_steps": 1, "per_device_train_batch_size": 4, "report_to": "none"}
    examples = rows(tmp_path)
    sft.train(*load_model(base), examples, tmp_path / "whole", **settings)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:700])
    with pytest.raises(TrainingError, match=rf"the photo of row 2, {tmp_path / '1.jpg'}: .*truncated"):
        sft.train(*load_model(base), examples, tmp_path / "out", **settings)


def test_a_photo_in_memory_is_named_by_its_row(base, tmp_path):
    kept = [[{"path": None, "bytes": content}] for content in (NOISE, NOISE, NOISE[:900], NOISE)]
    prompt = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Who?"}]}
    ]
    columns = {"prompt": [prompt] * 4, "images": kept, "solution": ['"<bo>"'] * 4}
    columns |= {"accu_reward_method": ["yes_no_name"] * 4, "candidates": [[]] * 4, "infos": [[]] * 4}
    dataset = datasets.Dataset.from_dict(columns).cast_column("images", datasets.List(datasets.Image()))
    settings = {**SETTINGS, "max_steps": 4, "save_steps": 100}
    for shared in (True, False):
        with pytest.raises(TrainingError, match=r"the photo of row 3, a photo in memory: .*truncated"):
            out = tmp_path / str(shared)
            grpo.train(*load_model(base), dataset, out, shared_prefix=shared, **settings)


def test_photos_are_resized_as_in_the_authors_training(tmp_path):
    for name, size in (("a", (700, 400)), ("b", (300, 200)), ("c", (1100, 500))):
        Image.effect_noise(size, 90).save(tmp_path / f"{name}.png")
    a, b, c = ({"path": str(tmp_path / f"{name}.png"), "bytes": None} for name in "abc")
    rows = decoded_once([{"images": [a, b]}, {"images": [a, c]}, {"images": [c]}, {"image": c}], True)
    sizes = [[photo.size for photo in row["images"]] for row in rows[:3]]
    assert sizes == [[(896, 512), (300, 200)], [(896, 512), (1126, 512)], [(2252, 1024)]]
    assert rows[0]["images"][0] is rows[1]["images"][0] and rows[3]["image"] is rows[2]["images"][0]
    with Image.open(tmp_path / "a.png") as photo:  # theirs: RGB first, then Lanczos
        own = photo.convert("RGB").resize((896, 512), Image.Resampling.LANCZOS)
    assert rows[0]["images"][0].tobytes() == own.tobytes()
    opened = Image.new("RGB", (1100, 500))
    assert decoded_once([{"images": [opened]}], True)[0]["images"][0].size == (2252, 1024)
    assert decoded_once([{"images": [opened]}])[0]["images"][0] is opened


def test_a_training_sees_the_resized_photos_and_counts_them(base, tmp_path):
    """The features are those of a training on photos that were resized before."""
    model, processor = load_model(base, device="cpu", max_pixels=100_000)
    photo = Image.effect_noise((700, 400), 90).convert("RGB")
    photo.save(tmp_path / "large.png")
    photo.resize((896, 512), Image.Resampling.LANCZOS).save(tmp_path / "resized.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "small.png")
    rows, seen = {}, {}
    for name in ("large", "resized"):
        rows[name] = [
            TrainingExample((f"{name}.png", "small.png"), "Who?", "<bo>", "yes_no_name") for _ in range(2)
        ]

        class Seen(type(processor.image_processor)):
            def __call__(self, images, *args, **kwargs):
                seen.setdefault(self.of, []).append([one.size for one in images])
                return super().__call__(images, *args, **kwargs)

        spy = copy.deepcopy(processor)
        spy.image_processor.__class__, spy.image_processor.of = Seen, name
        options = SETTINGS | {"max_steps": 1, "published_resize": name == "large"}
        grpo.train(copy.deepcopy(model), spy, rows[name], tmp_path / name, root=tmp_path, **options)
        lengths = to_dataset(rows[name], tmp_path, 0), processor, name == "large"
        seen[name].append(prompt_lengths(*lengths))
    assert seen["large"] == seen["resized"] and (896, 512) in seen["large"][0]
