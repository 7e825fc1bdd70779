"""Where files are in a folder laid out like the authors' repository (oyt9306/RePIC).

Photos that are not part of the repository (MyVLM, Yo'LLaVA, the 2-concept photos) belong where its
``data/README.md`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repic_core.captioner.caption_files import SETTINGS_SUFFIX
from repic_core.io.paths import is_hidden

DREAMBOOTH_PHOTOS = "data/dreambooth"  # holds a folder of photos per concept
OURS, ZERO_SHOT = "RePIC 7B", "Qwen2.5-VL 7B zero-shot"


@dataclass(frozen=True)
class PublishedSet:
    """One evaluation set of the authors.

    Args:
        database: its folder under ``data/database_tot``.
        queries: its file under ``data/query_tot``, without ``_query_templates.json``.
        protocol: how its captions are scored (`scores.PROTOCOLS`).
        top_k: how many concepts are retrieved (the authors' `topK`).
        captions: the folder of its published caption files; "" if none are published.
        methods: the name of each caption file without its suffix, and what made it, in the order of tables.
        note: what who looks at the captions should know of the methods' names.
    """

    database: str
    queries: str
    protocol: str
    top_k: int
    captions: str = ""
    methods: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


# Methods are called as in the authors' gradio_example_2_concept.ipynb and gradio_example_4_concept.ipynb; the notes
# say where these pages contradict each other.
TWO_CONCEPT_METHODS = {
    "captioning-skip-retrieval-ours": OURS,
    "captioning-skip-retrieval-zero_shot": ZERO_SHOT,
    "captioning-skip-retrieval-qwen_sft": "RAP-Qwen 7B 210K",
    "caption-rap-llava-with-skip-retreival_RAP-llava-reproduce": "RAP-LLaVA 13B 210K",
    "caption-rap-llava-skip-retreival_RAP-llava-sft-2k": "RAP-LLaVA 13B 2K",
}
FOUR_CONCEPT_METHODS = {
    "captioning-skip-retrieval-ours": OURS,
    "captioning-skip-retrieval-zero_shot": ZERO_SHOT,
    "captioning-skip-retrieval-qwen_sft": "RAP-Qwen 7B 260K",
    "caption-rap-llava-skip-retreival_RAP-llava-skip-full": "RAP-LLaVA 13B 260K",
    "caption-rap-llava-skip-retreival_RAP-llava-2k-skip-full": "RAP-LLaVA 13B 2K",
}
TWO_CONCEPT_NOTE = (
    "Methods are called as on the authors' own page (gradio_example_2_concept.ipynb). It gives the size of RAP's "
    "data as 210K; their 4-concept page says 260K."
)
FOUR_CONCEPT_NOTE = (
    "The authors' own page (gradio_example_4_concept.ipynb) shows the captions of the two RAP-LLaVA models under "
    "each other's name: it loads the file ..._RAP-llava-2k-skip-full.json as RAP-LLaVA 13B 260K, and "
    "..._RAP-llava-skip-full.json as RAP-LLaVA 13B 2K. Here, as on their 2-concept page, the file with 2k in its "
    "name is 2K."
)
SETS = {
    "myvlm": PublishedSet("database_myvlm", "myvlm", "repic-single", 2),
    "yollava": PublishedSet("database_yollava", "yollava", "repic-single", 2),
    "dreambooth": PublishedSet("database_dreambooth", "dreambooth", "repic-single", 2),
    "2-concepts": PublishedSet(
        "database_2_concepts",
        "2_concept",
        "repic-2",
        2,
        captions="captioning/double_concept",
        methods=TWO_CONCEPT_METHODS,
        note=TWO_CONCEPT_NOTE,
    ),
    "4-concepts": PublishedSet(
        "database_4_concepts",
        "4_concept",
        "repic-4",
        4,
        captions="captioning/quad_concept",
        methods=FOUR_CONCEPT_METHODS,
        note=FOUR_CONCEPT_NOTE,
    ),
}


def database_file(root: str | Path, name: str) -> Path:
    """The file with a set's concept database, whose image paths are relative to `root`.

    Raises:
        FileNotFoundError: the set's folder has no database; names the folder.
    """
    folder = Path(root) / "data/database_tot" / SETS[name].database
    for file in (folder / "database_mod.json", folder / "database.json"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{folder}: no database_mod.json; is {root} the authors' repository?")


def queries_file(root: str | Path, name: str) -> Path:
    """The file that lists a set's photos and the concepts that each shows."""
    return Path(root) / "data/query_tot" / f"{SETS[name].queries}_query_templates.json"


def caption_folder(root: str | Path, concepts: int = 4) -> Path:
    """The folder of the published caption files for photos of 2 or 4 concepts."""
    return Path(root) / SETS[f"{concepts}-concepts"].captions


def published_files(root: str | Path, concepts: int = 4) -> tuple[dict[str, Path], Path]:
    """Published caption files (method -> path) and their database.

    Args:
        concepts: how many concepts a photo shows, 2 or 4.

    Raises:
        FileNotFoundError: there are no caption files, or no database; names the folder.
    """
    folder = caption_folder(root, concepts)
    files = [path for path in sorted(folder.glob("*.json")) if not is_hidden(path.name)]
    found = {path.stem: path for path in files if not path.name.endswith(SETTINGS_SUFFIX)}
    if not found:
        raise FileNotFoundError(f"{folder}: no caption files (*.json); is {root} the authors' repository?")
    database = database_file(root, f"{concepts}-concepts")
    methods = SETS[f"{concepts}-concepts"].methods
    order = [*(stem for stem in methods if stem in found), *found]
    return {methods.get(stem, stem): found[stem] for stem in dict.fromkeys(order)}, database
