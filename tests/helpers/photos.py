"""Photo files that Pillow does not write: odd TIFFs, PNGs of 16 bits with a transparent value, broken EXIF."""

import io
import struct
import zlib

from PIL import Image

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
# An EXIF block: orientation 6, and a resolution of -1/0, which Pillow can't write again.
MALFORMED = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(
    ">HHIHHHHIIIii", 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 38, 0, -1, 0
)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(data: bytes, width: int, height: int, bits: int, photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF of whole numbers; `photometric` 0 means that zero is white."""
    values = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    values |= {279: len(data), 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II" + struct.pack("<HI", 42, 8 + len(data)) + data + directory


def png16(values: list[int], transparent: int) -> bytes:
    """A PNG of one row of 16-bit grey values, one of which is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


def halves(turn: int | None = None, kind: str = "JPEG", **options) -> bytes:
    """A photo of 64 x 48 pixels, blue on the left and red on the right, with an EXIF orientation."""
    image = Image.new("RGB", (64, 48), "red")
    image.paste("blue", (0, 0, 32, 48))
    exif = Image.Exif()
    if turn is not None:
        exif[0x0112] = turn
    return encoded(image, kind, **{"exif": exif} | options)
