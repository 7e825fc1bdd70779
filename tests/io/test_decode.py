"""Photos that Pillow alone clips, refuses or does not name: deep, transparent, turned, huge, HEIC and AVIF."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageFile

from helpers.photos import HEIC, MALFORMED, encoded, halves, png16, tiff
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.io.decode import media_kind, opened, upright_size
from repic_core.io.images import MODEL_PIXELS, image_fault, image_hash, open_for_model, open_image
from repic_core.io.uploads import MAX_PIXELS, UploadError, open_upload, store_photo

RAMP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
EIGHT = np.rint(RAMP / 257).astype(np.uint8)


def grey(image):
    found = np.asarray(open_image(image))
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize(
    "photo",
    [
        Image.fromarray(RAMP),
        Image.frombytes("I;16B", (32, 32), RAMP.astype(">u2").tobytes()),
        Image.fromarray(RAMP.astype(np.int32)),
        Image.fromarray((RAMP / 65535).astype(np.float32)),
        Image.fromarray((RAMP / 257).astype(np.float32)),
        Image.fromarray(RAMP.astype(np.float32)),
        RAMP,
        RAMP / 65535,
        np.repeat(RAMP[..., None], 3, axis=2),
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        tiff((65535 - RAMP).astype("<u2").tobytes(), 32, 32, 16, photometric=0),
    ],
)
def test_deep_photos_are_scaled_on_every_way(photo, tmp_path):
    """16 bits and floats of each range give the same 256 levels, in memory and from a file."""
    if isinstance(photo, bytes):
        (tmp_path / "deep").write_bytes(photo)
        photo = tmp_path / "deep"
        assert image_fault(photo) is None
        assert image_hash(open_image(photo)) == image_hash(Image.fromarray(EIGHT))
    levels = grey(photo)
    assert len(np.unique(levels)) == 256 and np.abs(levels.astype(int) - EIGHT).max() <= 1
    small = np.asarray(open_image(photo, 16))
    assert small.shape == (16, 16, 3) and np.abs(small[..., 0].astype(int) - EIGHT[::2, ::2]).max() < 10


def test_eight_bits_in_wide_numbers_stay_as_they_are():
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    for photo in (Image.fromarray(values), Image.fromarray(values.astype(np.float32)), values, values > 127):
        expected = values if np.asarray(photo).dtype != bool else 255 * (values > 127)
        assert (grey(photo) == expected).all()
    assert open_image(np.uint8([[[1, 2, 3]]])).getpixel((0, 0)) == (1, 2, 3)


def test_twelve_bits_of_a_tiff():
    pairs = [(16 * n, 16 * n + 8) for n in range(256)]
    data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    levels = grey(Image.open(io.BytesIO(tiff(data, 32, 16, 12))))
    expected = np.rint(np.array(pairs).reshape(16, 32) / 4095 * 255)
    assert (levels == expected).all() and levels[-1, -1] == 255


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.2, np.nan], "has pixels that are no numbers"),
        ([0.2, np.inf], "has pixels that are no numbers"),
        ([-1.0, 1.0], "has values from -1 to 1, so what is white is unknown: save it again in 8 bits"),
        ([0.0, 3.5], "has values from 0 to 3.5"),
        ([0.0, 1000.0], "has values from 0 to 1000"),
        ([0, 70000], "has values from 0 to 70000"),
        ([-5, 200], "has values from -5 to 200"),
    ],
)
def test_values_of_no_known_scale_are_refused_by_name(values, said, tmp_path):
    kind = np.float32 if isinstance(values[0], float) else np.int32
    photo = Image.fromarray(np.array([values] * 2, dtype=kind))
    photo.save(tmp_path / "odd.tif")
    assert said in image_fault(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=f"^{tmp_path / 'odd.tif'}: {said}"):
        open_image(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=f"^the image: {said}"):
        open_image(photo)
    with pytest.raises(UploadError, match=r"^odd\.tif: has more than 8 bits"):
        open_upload(tmp_path / "odd.tif")
    database = ConceptDatabase([Concept(name="bo", image=str(tmp_path / "odd.tif"))], root=tmp_path)
    path = database.save(tmp_path / "database.json")
    with pytest.raises(ConceptError, match=said):
        ConceptDatabase.load(path)


def test_see_through_parts_are_white_in_every_mode():
    clear_red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    palette = clear_red.convert("RGB").convert("P")
    found = {
        "RGBA": clear_red,
        "LA": Image.new("LA", (8, 8), (0, 0)),
        "P": Image.open(io.BytesIO(encoded(palette, "PNG", transparency=palette.getpixel((0, 0))))),
        "PA": clear_red.convert("PA"),
        "one grey value": Image.open(io.BytesIO(png16([1000] * 8, 1000))),
    }
    for name, image in found.items():
        assert open_image(image).getpixel((1, 0)) == (255, 255, 255), name
    assert [grey(Image.open(io.BytesIO(png16([0, 1000, 65535], 1000))))[0, n] for n in range(3)] == [
        0,
        255,
        255,
    ]
    half = open_image(Image.new("LA", (8, 8), (0, 128)))
    assert half.getpixel((0, 0)) == (127, 127, 127)


def test_colours_of_other_modes():
    for image in (
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)),
        Image.open(io.BytesIO(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))),
        Image.new("P", (8, 8), "red"),
        Image.new("HSV", (8, 8), (0, 255, 255)),
        Image.new("RGB", (8, 8), "red").convert("YCbCr"),
        Image.new("RGBX", (8, 8), "red"),
    ):
        red, green, blue = open_image(image).getpixel((4, 4))
        assert red > 250 and green < 5 and blue < 5, image.mode
    one = open_image(Image.fromarray(np.array([[True, False]])))
    assert [one.getpixel((n, 0)) for n in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


# What lies at the top left and at the bottom right, and whether width and height change places.
TURNS = {1: "br", 2: "rb", 3: "rb", 4: "br", 5: "br", 6: "br", 7: "rb", 8: "rb"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", [*TURNS, 0, 9])
def test_each_orientation_in_each_kind_of_file(kind, turn, tmp_path):
    (tmp_path / "a").write_bytes(halves(turn, kind))
    found = open_image(tmp_path / "a")
    assert found.size == ((48, 64) if 5 <= turn <= 8 else (64, 48))
    corners = found.getpixel((4, 4)), found.getpixel((found.width - 5, found.height - 5))
    assert "".join("b" if corner[2] > 200 else "r" for corner in corners) == TURNS.get(turn, "br")
    with opened(tmp_path / "a") as image:
        assert upright_size(image) == found.size
    assert not found.getexif() and open_image(found).tobytes() == found.tobytes()  # not turned again
    if kind != "TIFF":
        small = open_image(tmp_path / "a", 32)
        assert small.size == ((24, 32) if 5 <= turn <= 8 else (32, 24))


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (MALFORMED, (48, 64)),  # turned although another tag is malformed
        (b"Exif\0\0this is no TIFF header", (64, 48)),
        (b"Exif\0\0", (64, 48)),
        (MALFORMED[:20], (64, 48)),
        (
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x02\0\0\0\x026\0\0\0" + bytes(4),
            (64, 48),
        ),  # a text
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_malformed_exif_stops_no_sound_photo(exif, size, tmp_path):
    (tmp_path / "a.jpg").write_bytes(halves(exif=exif))
    assert image_fault(tmp_path / "a.jpg") is None
    assert open_image(tmp_path / "a.jpg").size == size == open_upload(tmp_path / "a.jpg").size
    assert open_image(Image.open(tmp_path / "a.jpg")).size == size
    assert Image.open(store_photo(tmp_path / "a.jpg", tmp_path / "photos")).size == size


def test_an_image_in_memory_stays_as_it_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (640, 480), "red"), "JPEG"))
    image = Image.open(tmp_path / "a.jpg")
    image.getexif()[0x0112] = 6
    assert open_image(image, 64).size == (48, 64)
    assert image.size == (640, 480) and image.getexif()[0x0112] == 6


def test_heic_is_named_whatever_the_file_is_called(tmp_path):
    for name in ("IMG_1.HEIC", "IMG_1.jpg", "IMG_1.png"):
        (tmp_path / name).write_bytes(HEIC)
        said = r"is a HEIC photo \(iPhone\): save it as JPEG, or install pillow-heif"
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            open_image(tmp_path / name)
        with pytest.raises(UploadError, match=f"^{name}: {said}"):
            open_upload(tmp_path / name)
        assert image_fault(tmp_path / name) in said.replace("\\", "")
        with pytest.raises(UploadError, match="HEIC"):
            open_upload(HEIC, "a.jpg")


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"heic\0\0\0\0mif1", "HEIC"),
        (b"mif1\0\0\0\0mif1heic", "HEIC"),
        (b"msf1\0\0\0\0hevc", "HEIC"),
        (b"mif1\0\0\0\0mif1avif", "AVIF"),
        (b"avis\0\0\0\0", "AVIF"),
        (b"isom\0\0\0\0mp42", None),
        (b"qt  \0\0\0\0qt  ", None),
    ],
)
def test_brands(brands, kind):
    assert media_kind((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"heicavif") == kind
    assert media_kind(b"") is None and media_kind(b"\xff\xd8\xff\xe0") is None


def test_avif_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(halves(kind="AVIF"))
    assert open_image(tmp_path / "a.jpg").size == open_upload(tmp_path / "a.jpg").size == (64, 48)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    """The package is a stand-in here, which registers a decoder as the real one does."""

    class HeifImageFile(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (64, 48), "RGB"

        def load(self):
            self.im = Image.new("RGB", (64, 48), "blue").im
            return super().load() if self.tile else None

    def register_heif_opener():
        Image.register_open("HEIF", HeifImageFile, lambda head: head[4:12] == b"ftypheic")

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = register_heif_opener
    package.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    Image.init()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    assert image_fault(tmp_path / "IMG_1.HEIC") is None
    for found in (open_image(tmp_path / "IMG_1.HEIC"), open_upload(HEIC)):
        assert found.size == (64, 48) and found.getpixel((0, 0)) == (0, 0, 255)


def test_a_real_heic_is_read_and_turned_once(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (the extra heic)")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, clockwise
    image = Image.new("RGB", (160, 120), "black")
    image.paste("white", (0, 0, 160, 60))
    image.save(tmp_path / "IMG_1.jpg", "HEIF", exif=exif.tobytes())
    assert image_fault(tmp_path / "IMG_1.jpg") is None
    for found in (open_image(tmp_path / "IMG_1.jpg"), open_upload(tmp_path / "IMG_1.jpg")):
        assert found.size == (120, 160)
        assert min(found.getpixel((110, 80))) > 240 and max(found.getpixel((10, 80))) < 15


@pytest.mark.parametrize("size", [(8160, 6120), (16000, 3000)])
def test_captioners_take_less_of_fifty_megapixels(size, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("L", size, 128), "JPEG", quality=30, exif=exif))
    high, wide = open_for_model(tmp_path / "a.jpg").size
    assert 0.99 * MODEL_PIXELS < wide * high <= 1.01 * MODEL_PIXELS
    assert wide / high == pytest.approx(size[0] / size[1], rel=0.001)


def test_captioners_take_photos_of_other_sizes_as_they_are(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.effect_noise((640, 480), 60), "PNG"))
    one, two = open_for_model(tmp_path / "a.png"), open_image(tmp_path / "a.png")
    assert one.size == two.size and one.tobytes() == two.tobytes()


@pytest.mark.parametrize("size", [(8160, 6144), (8192, 6144)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_photos_of_fifty_megapixels_are_decoded_small(size, options, monkeypatch):
    decoded, load = [], ImageFile.ImageFile.load

    def watched(image):
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    photo = open_upload(encoded(Image.new("L", size, 128), "JPEG", quality=30, **options), "IMG_1.jpg")
    assert max(photo.size) == 2048 and photo.getpixel((9, 9)) == (128, 128, 128)
    assert decoded and max(map(max, decoded)) <= max(size) // 2


def test_larger_photos_are_refused_before_they_are_decoded(monkeypatch):
    from helpers.hostile import png

    assert open_upload(encoded(Image.new("1", (8192, 6144), 1), "PNG"), "a.png").size == (2048, 1536)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UploadError, match=f"more than {MAX_PIXELS:,} in all: shrink it"):
        open_upload(png(8000, 7501), "a.png")
    with pytest.raises(ValueError, match=r"has more than 178,956,970 pixels: shrink it"):
        open_upload(png(20000, 20000), "a.png")
    assert image_fault(png(20000, 20000)) == "has more than 178,956,970 pixels: shrink it"
