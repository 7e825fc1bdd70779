"""The six examples of the paper's Figures 1, A.1 and A.2, from a folder laid out like the authors' repository.

Photos, concepts and questions are those of the authors' ``inference_example.ipynb`` (second cell), which their
README names as the source of these figures; what it printed for them are the published answers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repic_core.captioner.caption_files import CaptionItem
from repic_core.concepts.concept import Concept, ConceptError
from repic_core.concepts.database import ConceptDatabase
from repic_core.concepts.tags import bare
from repic_core.display.caption_grid import GridRow
from repic_core.evaluation.paper_settings import SettingError
from repic_core.io.files import read_json
from repic_core.io.images import image_fault
from repic_core.io.paths import find_file

NOTEBOOK = "inference_example.ipynb"
PUBLISHED = "published"  # the method that the notebook's answers are shown as


@dataclass(frozen=True)
class FigureExample:
    """One example: the folder of its database, its photo, its concepts in prompt order, and the question."""

    folder: str
    photo: str
    tags: tuple[str, ...]
    question: str

    @property
    def query(self) -> str:
        """The photo's path as the authors write it, relative to their repository.

        >>> EXAMPLES[0].query
        './__assets__/multi_large/resize_img.jpg'
        """
        return f"./__assets__/{self.folder}/{self.photo}"


EXAMPLES = (
    FigureExample(
        "multi_large",
        "resize_img.jpg",
        ("<jeff>", "<jenson>", "<lecun>", "<sundar>", "<elon>", "<mark>", "<sam>"),
        "Give a detailed personalized caption of the image.",
    ),
    FigureExample(
        "main_figure",
        "concept_13.png",
        ("<monster_toy>", "<sloth>", "<plush>", "<teddy>"),
        "Give a personalized caption for the image.",
    ),
    FigureExample(
        "main_figure",
        "concept_2.png",
        ("<ball>", "<monster>", "<otter>"),
        "Give a personalized caption for the image.",
    ),
    FigureExample(
        "multi", "three_mans.jpg", ("<A>", "<B>", "<C>"), "Give a personalized caption of the image."
    ),
    FigureExample("style_2", "2-2.jpg", ("<style2>",), "Give a rich caption of the image."),
    FigureExample(
        "vton",
        "jenson_out.jpg",
        ("<outfit_1329>", "<customer1>"),
        "Give a detailed personalized caption of the image.",
    ),
)


def figure_examples(root: str | Path, tell: Callable[[str], Any] = print) -> list[CaptionItem]:
    """The examples of `EXAMPLES` whose database and photos are in `root`, in that order.

    Args:
        root: the authors' repository; image paths in the databases are relative to it.
        tell: is given a line for each example that is left out, which says what is missing.
    """
    items = []
    for example in EXAMPLES:
        try:
            items.append(_item(Path(root), example))
        except (ConceptError, SettingError) as error:
            tell(f"left out: {example.query}: {error}")
    return items


def published_answers(root: str | Path) -> dict[str, str]:
    """The answers that the authors' notebook in `root` printed, by query path; empty if it is not there.

    Raises:
        SettingError: the notebook can't be read.
    """
    path = Path(root) / NOTEBOOK
    if not path.is_file():
        return {}
    notebook = read_json(path, SettingError)
    try:
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        printed = "\n".join("".join(output.get("text", "")) for output in outputs)
    except (KeyError, TypeError, AttributeError):
        raise SettingError(f"{path}: is not a notebook: take it from the authors' repository again") from None
    said = re.findall(
        r"^Query Img: (.+)\nQuestion: .*\nAnswer: ((?s:.*?))\s*(?=^Query Img: |\Z)", printed, re.MULTILINE
    )
    return dict(said)


def figure_rows(items: Sequence[CaptionItem], captions: Mapping[str, Mapping[str, str]]) -> list[GridRow]:
    """The rows of the figure.

    Args:
        captions: method -> query path -> caption. A method without a caption of a photo has none in its row; a
            photo without any caption has no row.
    """
    rows = []
    for item in items:
        said = {method: texts.get(str(item.label)) for method, texts in captions.items()}
        if any(text is not None for text in said.values()):
            rows.append(GridRow(item.query, item.references, said, item.question))
    return rows


def _item(root: Path, example: FigureExample) -> CaptionItem:
    file = root / "__assets__" / example.folder / "database.json"
    if not file.is_file():
        raise SettingError(f"{file} is missing")
    with warnings.catch_warnings():
        # Their "path_to_concept" is out of date in some of these files; their notebook does not read it either.
        warnings.simplefilter("ignore")
        known = ConceptDatabase.load(file, root, check_images=False)
    references = [_called_by_tag(concept) for concept in known.select(*example.tags)]
    photo = find_file(root, example.query)
    for image in (photo, *(image for concept in references for image in concept.images)):
        fault = image_fault(Path(image))
        if fault:
            raise SettingError(f"{image} {fault}")
    return CaptionItem(photo, references, example.question, example.tags, label=example.query)


def _called_by_tag(concept: Concept) -> Concept:
    """The concept without its name in the database, which the authors' notebook does not use: <jeff> has the name A
    there, so each caption that begins with "A" would name him."""
    return replace(concept, name=bare(concept.tag))
