"""Photos that strangers upload: `hostile()` are all to be refused, `odd()` are odd, but photos."""

import gzip
import io
import pickle
import struct
import zipfile
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, body: bytes = b"\0") -> bytes:
    """A grey PNG that says it has this size, whatever `body` holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def hostile() -> dict[str, bytes]:
    noise = Image.effect_noise((64, 48), 90).convert("RGB")
    frames = {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "red")]}
    jpeg, whole_png = encoded(noise, "JPEG"), encoded(noise, "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    entities = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'
    broken = bytearray(whole_png)
    broken[len(broken) // 2] ^= 0xFF
    return {
        "empty.png": b"",
        "text.png": b"just a line of text\n",
        "html.jpg": b"<html><script>alert(1)</script></html>",
        "script.svg": svg,
        "svg.png": svg,
        "entities.svg": entities,
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\nshowpage\n",
        "page.pdf": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n%%EOF",
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "photo.avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(64),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "head.jpg": jpeg[:20],
        "cut.png": whole_png[: len(whole_png) // 2],
        "broken.png": bytes(broken),
        "cut.gif": encoded(noise, "GIF")[:40],
        "cut.webp": encoded(noise, "WEBP")[:200],
        "bomb.png": png(50_000, 50_000),
        "large.png": png(8_000, 8_000),
        "nothing.png": png(0, 0),
        "strip.png": encoded(Image.new("RGB", (1000, 4)), "PNG"),
        "moving.gif": encoded(noise, "GIF", **frames),
        "moving.png": encoded(noise, "PNG", **frames),
        "moving.webp": encoded(noise, "WEBP", **frames),
        "pages.tiff": encoded(noise, "TIFF", **frames),
        "deep.png": encoded(Image.new("I;16", (64, 48)), "PNG"),
        "float.tiff": encoded(Image.new("F", (64, 48)), "TIFF"),
        "icon.ico": encoded(noise, "ICO", sizes=[(16, 16)]),
        "plain.ppm": encoded(noise, "PPM"),
        "layers.psd": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x30\0\0\0\x40\0\x08\0\x03" + bytes(16),
        "archive.png": zipped("a.png", whole_png),
        "packed.png": gzip.compress(whole_png),
        "objects.png": pickle.dumps({"a": 1}),
        "program.jpg": b"\x7fELF\2\1\1" + bytes(57),
        "numbers.jpg": b'{"concept_dict": {}}',
        "negative.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -8, 8, 1, 24, 0, 0, 0, 0, 0, 0),
    }


def odd() -> dict[str, bytes]:
    noise = Image.effect_noise((64, 48), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x9286] = "a secret place"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS
    return {
        "cmyk.jpg": encoded(noise.convert("CMYK"), "JPEG"),
        "really-a.jpg": encoded(noise, "PNG"),
        "upper.JPEG": encoded(noise, "JPEG"),
        "no-name": encoded(noise, "WEBP"),
        "still.gif": encoded(noise, "GIF"),
        "grey.png": encoded(noise.convert("L"), "PNG"),
        "one-bit.png": encoded(noise.convert("1"), "PNG"),
        "see-through.png": encoded(noise.convert("P"), "PNG", transparency=3),
        "turned.jpg": encoded(noise, "JPEG", exif=exif, comment=b"a secret comment"),
        "print.tif": encoded(noise, "TIFF"),
        "old.bmp": encoded(noise, "BMP"),
    }
