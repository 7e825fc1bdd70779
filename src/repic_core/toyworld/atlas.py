"""Make the atlas of drawings: ``repic toyworld atlas``.

The drawings are those of Noto Emoji, from Debian's `fonts-noto-color-emoji`; their names, groups and subgroups are
those of Unicode's ``emoji-test.txt``, from Debian's `unicode-data`. Left out are variants in skin tone, flags and
symbols, clocks, weather, hearts, hands, families, and drawings that are much wider or narrower than high.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from repic_core.io.files import replaced, write_json_atomic
from repic_core.toyworld.drawings import ATLAS, COLUMNS, RECORD, SIZE, kind_of

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
# The only size, in pixels, in which this font's bitmaps can be drawn.
FONT_SIZE = 109
LEFT_OUT_GROUPS = ("Component", "Symbols", "Flags")
LEFT_OUT_SUBGROUPS = (
    "heart",
    "emotion",
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-fingers-closed",
    "hand-single-finger",
    "hands",
    "hand-prop",
    "family",
    "person-symbol",
    "time",
    "sky & weather",
)
# Colours by name, each as some of its shades in RGB: people call slate gray, lime green, and chestnut brown.
COLORS = {
    "red": ((215, 45, 45), (240, 80, 60), (140, 25, 30)),
    "orange": ((245, 130, 30), (255, 152, 10), (250, 155, 70), (225, 105, 40)),
    "yellow": ((250, 205, 50), (255, 235, 110), (252, 182, 10), (255, 236, 165)),
    "green": ((80, 160, 60), (175, 205, 65), (95, 110, 50), (40, 100, 50), (160, 210, 130), (0, 150, 120)),
    "blue": ((50, 120, 215), (30, 60, 125), (105, 180, 240), (180, 225, 250), (60, 150, 180)),
    "purple": ((140, 70, 180), (85, 50, 125), (190, 140, 215), (175, 90, 190)),
    "pink": ((245, 150, 185), (230, 70, 140), (250, 200, 205), (252, 212, 180)),
    "brown": ((130, 85, 60), (75, 50, 40), (130, 55, 30), (165, 115, 75), (200, 150, 95), (160, 135, 125)),
    "gray": (
        (145, 155, 160),
        (132, 134, 136),
        (180, 190, 196),
        (85, 98, 106),
        (130, 172, 190),
        (178, 212, 222),
    ),
    "black": ((45, 45, 45), (80, 80, 82), (98, 98, 100), (38, 48, 56)),
    "white": ((245, 245, 245), (222, 226, 228), (252, 238, 215)),
}
# The font's yellow skin, from light to shaded.
SKIN = ((255, 204, 50), (254, 192, 45), (250, 184, 35), (242, 166, 0), (228, 158, 0))
PEOPLE = re.compile(r"\b(men|man|women|woman|people|persons|person|boy|girl|prince|princess|mx|mrs)\b")
# Mean difference of two drawings on gray, per channel (0 to 255) and over the area of both, under which they count
# as near-duplicates.
NEAR = 18.0


def emoji_names(path: str | Path = NAMES) -> list[dict[str, str]]:
    """The emoji of ``emoji-test.txt`` that become drawings: {"text", "name", "group", "subgroup"}."""
    found, group, subgroup = [], "", ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        title = re.match(r"# (group|subgroup): (.+)", line)
        entry = re.match(r".+; fully-qualified\s+# (\S+) E\S+ (.+)", line)
        if title and title[1] == "group":
            group = title[2]
        elif title:
            subgroup = title[2]
        elif (
            entry
            and "skin tone" not in entry[2]
            and group not in LEFT_OUT_GROUPS
            and subgroup not in LEFT_OUT_SUBGROUPS
        ):
            found.append({"text": entry[1], "name": entry[2], "group": group, "subgroup": subgroup})
    return found


def draw(text: str, font: Any) -> Any:
    """The drawing, RGBA, `SIZE` x `SIZE` pixels; None if the font has none or it is far from square."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (300, 180))
    ImageDraw.Draw(image).text((12, 16), text, font=font, embedded_color=True)
    box = image.getbbox()
    if box is None:
        return None
    image = image.crop(box)
    if not 50 <= image.width <= 140:
        return None
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((SIZE, SIZE), Image.LANCZOS)


def main_color(image: Any, kind: str) -> str:
    """The name of the colour that most of a drawing has; of people, that of their clothes."""
    pixels = np.asarray(image, np.float32)
    if kind == "person":
        pixels = pixels[SIZE // 2 :]
    pixels = pixels[pixels[..., 3] > 200][:, :3]
    if kind == "person":
        skin = np.abs(pixels[:, None] - np.array(SKIN, np.float32)).sum(-1).min(1) < 60
        pixels = pixels if skin.mean() > 0.9 else pixels[~skin]
    shades = [(name, shade) for name, some in COLORS.items() for shade in some]
    distance = np.linalg.norm(pixels[:, None] - np.array([shade for _, shade in shades], np.float32), axis=-1)
    counts = dict.fromkeys(COLORS, 0)
    for (name, _), n in zip(shades, np.bincount(distance.argmin(1), minlength=len(shades)), strict=True):
        counts[name] += int(n)
    return max(counts, key=counts.__getitem__)


def families(names: list[str], images: list[Any]) -> list[int]:
    """For each drawing, the number of its family: near-duplicates that must not be torn apart by a split.

    One family are those whose names differ in sex only ("man farmer", "woman farmer"), and those that look alike.
    """
    keys = [PEOPLE.sub("person", name) for name in names]
    small = np.stack([np.asarray(image.resize((18, 18)), np.float32) for image in images])
    opacity = small[..., 3:] / 255
    on_gray = small[..., :3] * opacity + 128 * (1 - opacity)
    family = list(range(len(names)))
    for i in range(len(names)):
        drawn = np.maximum(opacity[:i], opacity[i]).sum((1, 2, 3))
        look = np.abs(on_gray[:i] - on_gray[i]).mean(-1).sum((1, 2)) / drawn < NEAR
        for j in range(i):
            if (keys[j] == keys[i] or look[j]) and family[j] != family[i]:
                old, new = max(family[i], family[j]), min(family[i], family[j])
                family = [new if one == old else one for one in family]
    return family


def make_atlas(folder: str | Path, font: str | Path = FONT, names: str | Path = NAMES) -> int:
    """Write the atlas and its record to `folder`; returns the number of drawings.

    Raises:
        FileNotFoundError: the font or the list of names is missing; says which Debian package has it.
    """
    from PIL import Image, ImageFont

    for path, package in ((font, "fonts-noto-color-emoji"), (names, "unicode-data")):
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file; it comes with Debian's package {package}")
    loaded = ImageFont.truetype(str(font), FONT_SIZE)
    found: dict[bytes, tuple[dict[str, str], Any]] = {}
    for entry in emoji_names(names):
        image = draw(entry["text"], loaded)
        if image is not None:
            found.setdefault(image.tobytes(), (entry, image))
    entries, images = zip(*found.values(), strict=True)
    atlas = Image.new("RGBA", (SIZE * COLUMNS, SIZE * math.ceil(len(images) / COLUMNS)))
    for number, image in enumerate(images):
        atlas.paste(image, (number % COLUMNS * SIZE, number // COLUMNS * SIZE))
    packed = io.BytesIO()
    atlas.save(packed, "WEBP", quality=80, method=6)
    numbers = families([entry["name"] for entry in entries], list(images))
    rows = []
    for entry, image, family in zip(entries, images, numbers, strict=True):
        points = " ".join(f"{ord(letter):X}" for letter in entry["text"])
        facts = {key: entry[key] for key in ("name", "group", "subgroup")}
        color = main_color(image, kind_of(entry["subgroup"]))
        rows.append({"code_points": points, **facts, "family": entries[family]["name"], "color": color})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / ATLAS) as file:
        file.write(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    write_json_atomic(folder / RECORD, {"sha256": digest, "drawings": rows})
    return len(rows)
