"""Photos from strangers: what is not a proper photo is refused with a message, and nothing of it is kept."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.hostile import hostile, odd
from repic_core.io.uploads import MAX_BYTES, UploadError, open_upload, store_photo

HOSTILE, ODD = hostile(), odd()


def test_there_are_thirty_kinds():
    assert len(HOSTILE) >= 30


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("on_disk", [True, False])
def test_hostile_files_are_refused(tmp_path, name, on_disk):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(UploadError) as error:
        open_upload(tmp_path / name) if on_disk else open_upload(HOSTILE[name], name)
    message = str(error.value)
    assert message.startswith(f"{name}: ") and re.search(r": (give|save|upload|shrink|crop)\b.*$", message)
    assert str(tmp_path) not in message and "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.png", "is empty"),
        ("bomb.png", "more than 178,956,970 pixels"),
        ("large.png", "8000 x 8000 pixels"),
        ("moving.gif", "2 frames"),
        ("pages.tiff", "2 frames or pages"),
        ("photo.heic", "HEIC"),
        ("deep.png", "more than 8 bits"),
        ("strip.png", "too long for the model"),
        ("page.eps", "is not a photo that can be read"),
    ],
)
def test_messages_say_what_is_wrong(name, said):
    with pytest.raises(UploadError, match=re.escape(said)):
        open_upload(HOSTILE[name], name)


def test_no_decoder_but_those_of_photos_sees_a_file(monkeypatch):
    """EPS would start Ghostscript; a bomb is refused before it is decoded."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for name in ("page.eps", "bomb.png", "large.png", "layers.psd", "icon.ico"):
        with pytest.raises(UploadError):
            open_upload(HOSTILE[name], name)


def test_too_many_bytes(tmp_path):
    with open(tmp_path / "big.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UploadError, match=r"big\.jpg: has 40 MB, more than 40: shrink it"):
        open_upload(tmp_path / "big.jpg")
    with pytest.raises(UploadError, match="can't be read"):
        open_upload(tmp_path / "none.jpg")


@pytest.mark.parametrize("name", ODD)
def test_odd_photos_are_taken(tmp_path, name):
    photo = open_upload(ODD[name], name)
    assert photo.mode == "RGB" and photo.size == ((48, 64) if name == "turned.jpg" else (64, 48))
    assert not photo.info and not photo.getexif()
    stored = store_photo(photo, tmp_path / "photos")
    data = stored.read_bytes()
    assert b"secret" not in data and b"Exif" not in data and stored.suffix == ".png"
    assert list(Image.open(stored).get_flattened_data()) == list(photo.get_flattened_data())


def test_stored_photos_are_named_for_their_pixels_and_shrunk(tmp_path):
    large = Image.effect_noise((3000, 1500), 60).convert("RGB")
    first = store_photo(large, tmp_path)
    assert Image.open(first).size == (2048, 1024) and first.suffix == ".jpg"
    assert store_photo(large, tmp_path) == first != store_photo(large.crop((0, 0, 300, 300)), tmp_path)
    assert re.fullmatch(r"[0-9a-f]{24}\.jpg", first.name)
    assert len(list(tmp_path.iterdir())) == 2


def test_stored_photos_have_no_comments(tmp_path):
    Image.effect_noise((300, 300), 60).save(tmp_path / "a.jpg", comment=b"a secret comment")
    assert b"secret" not in store_photo(tmp_path / "a.jpg", tmp_path / "photos").read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ODD)), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_any_damage_is_a_message_or_a_photo(name, place, damage):
    data = bytearray(ODD[name])
    data[place : place + len(damage)] = damage
    try:
        assert open_upload(bytes(data), name).mode == "RGB"
    except UploadError as error:
        assert str(error).startswith(name)


def test_jpegs_of_many_scans_are_refused():
    """Each scan is decoded over the whole photo; 40 MB could hold hundreds of thousands of scans."""
    import io

    buffer = io.BytesIO()
    Image.effect_noise((300, 300), 60).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert open_upload(data[:-2] + scan * 20 + data[-2:], "a.jpg").size == (300, 300)
    with pytest.raises(UploadError, match="more than 100 scans"):
        open_upload(data[:-2] + scan * 200 + data[-2:], "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK"])
def test_large_photos_are_shrunk_before_they_are_copied(mode, monkeypatch):
    kind = "JPEG" if mode in ("RGB", "L", "CMYK") else "PNG"
    seen = []

    def copies(image, turn):
        seen.append(image.size)
        return rgb(image, turn)

    from repic_core.io.decode import rgb

    monkeypatch.setattr("repic_core.io.images.rgb", copies)
    from helpers.hostile import encoded

    photo = open_upload(encoded(Image.new(mode, (5000, 3000), 1 if mode in "P1" else "red"), kind), "a")
    assert photo.size == (2048, 1229) and photo.mode == "RGB" and seen == [(2048, 1229)]


def test_a_large_turned_photo_stays_upright():
    from helpers.hostile import encoded

    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGB", (4000, 1000), "red")
    wide.paste("blue", (0, 0, 2000, 1000))  # left, which is up after rotation
    photo = open_upload(encoded(wide, "JPEG", exif=exif), "a.jpg")
    assert photo.size == (512, 2048)
    assert photo.getpixel((200, 100))[2] > 200 and photo.getpixel((200, 1900))[0] > 200
