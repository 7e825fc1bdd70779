"""Model and dataset cards in the hub's form: YAML front matter, then what is known; the rest is "not recorded"."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from repic_core.io.tables import markdown
from repic_core.tasks import TASKS

NOT_RECORDED = "not recorded"
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w")
PACKAGES = ("repic-core", "torch", "transformers", "peft", "trl")

INTENDED_USE = """\
Captions of photos that use the names of concepts (people, pets, things) whose reference photos and names the user
gives in the prompt. It names what it is shown; it is no means of finding out who a stranger is, and must not be
used to identify, track or judge people."""
LIMITS = """\
A caption can name the wrong concept or one that is not in the photo, and can repeat the information given on a
reference as though it were seen. Reliability falls with the number of references, with look-alikes and with small
or hidden faces. What the base model gets wrong, this one does as well."""
PRIVACY = """\
Reference photos of people are personal data, and in many places biometric data. Use photos only of people who
agreed to this use (for children: whose guardians did), keep them no longer than needed, and remove them with all
that was made of them when someone asks. Weights tuned on photos of people may reveal something of them: do not
publish such weights without the consent of those shown."""


def front_matter(
    base: str | None,
    revision: str | None,
    library: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    relation: str | None = None,
) -> str:
    """A model card's YAML block, with what is known of it; names that are no hub ids stay out."""
    values: dict[str, Any] = {"library_name": library, "pipeline_tag": "image-text-to-text"}
    if license:
        values["license"] = license
    if base and HUB_ID.fullmatch(base):
        values["base_model"] = base
        if relation:
            values["base_model_relation"] = relation
        if revision:
            values["base_model_revision"] = revision
    ids = [name for name in datasets if HUB_ID.fullmatch(name)]
    if ids:
        values["datasets"] = ids
    values["tags"] = ["personalization", "image-captioning", "repic"]
    return yaml_block(values)


def yaml_block(values: Mapping[str, Any]) -> str:
    """Front matter; any text in `values` stays the value that it is."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, width=1000)}---\n"


def text_line(text: Any) -> str:
    """A user's text on one line of Markdown: no mark-up, HTML, link or front matter in it takes effect.

    >>> text_line("<b>my\\n---\\n[photos](x)")
    '&lt;b&gt;my --- \\\\[photos\\\\](x)'
    """
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def named(name_or_path: str | Path) -> str:
    """A hub id as it is; of a local folder only its name, since a card is read by others."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.is_dir() else str(name_or_path)


def versions() -> dict[str, str]:
    """Installed versions of what a model depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = NOT_RECORDED
    return found


def bullets(values: Mapping[str, Any]) -> str:
    """``- key: value`` lines; what is None or empty is "not recorded"."""
    return "\n".join(f"- {key}: {_value(value)}" for key, value in values.items())


def model_card(known: Mapping[str, Any], adapter: bool, vllm: Sequence[str] = ()) -> str:
    """The model card (README.md); what is not in `known` is "not recorded"."""
    datasets = known.get("datasets") or []
    head = front_matter(
        *(known.get("base"), known.get("base_revision"), "peft" if adapter else "transformers"),
        *(
            known.get("license"),
            datasets,
            "adapter" if adapter else "merge" if "merge" in known else "finetune",
        ),
    )
    base = text_line(known.get("base") or NOT_RECORDED)
    parts = {
        "Model": f"{'A LoRA adapter for' if adapter else 'Made from'} {base}: captions of photos that use the "
        "names of the concepts given in the prompt ([RePIC](https://arxiv.org/abs/2506.18369)).\n\n"
        + bullets(
            {
                "Base": known.get("base"),
                "Revision": known.get("base_revision"),
                "License": known.get("license"),
                "Adapter": known.get("lora") if adapter else "none (whole model)",
            }
        ),
        "Use": _usage(known.get("base"), adapter, vllm),
        "Training": bullets(
            {
                "Data": known.get("data"),
                "Data sets": datasets,
                "Recipe": known.get("recipe"),
                "Rewards": known.get("rewards"),
                "Run": known.get("run"),
                "Notes": known.get("notes"),
            }
        ),
        "Evaluation": evaluation_table(known.get("evaluation") or ()),
        "Merge": known.get("merge") or ("Not merged." if adapter else NOT_RECORDED.capitalize() + "."),
        "Intended use": INTENDED_USE,
        "Limits": LIMITS,
        "Consent and privacy": PRIVACY,
    }
    return (
        head
        + "\n# Personalised captioner\n"
        + "".join(f"\n## {k}\n\n{v.strip()}\n" for k, v in parts.items())
    )


def dataset_card(rows: Sequence[Any], known: Mapping[str, Any]) -> str:
    """The card of the training rows: format, counts by method, sources, licence, consent."""
    counts = {
        f"{task.label} (`{name}`)": sum(row.method == name for row in rows) for name, task in TASKS.items()
    }
    photos = {image for row in rows for image in row.images}
    data = known.get("data") or {}
    head = yaml_block(
        {
            "license": data.get("license") or "unknown",
            "task_categories": ["image-to-text"],
            "tags": ["personalization", "repic"],
        }
    )
    counted = "\n".join(f"- {name}: {count}" for name, count in counts.items())
    return (
        f"{head}\n# Training rows\n\n{len(rows)} rows on {len(photos)} photos. Each row has `image` (one path or a "
        "list), `problem` (the prompt), `solution` (yes/no, a box `[x1, y1, x2, y2]` in pixels, or names) and "
        f"`accu_reward_method`:\n\n{counted}\n\n## Sources and licence\n\n"
        + bullets(
            {"Sources": data.get("sources"), "License": data.get("license"), "Names": known.get("datasets")}
        )
        + "\n\n## Consent\n\n"
        + bullets({"Consent of the people shown": data.get("consent")})
        + f"\n\n{PRIVACY}\n"
    )


def _usage(base: str | None, adapter: bool, vllm: Sequence[str]) -> str:
    name = json.dumps(base or "BASE", ensure_ascii=False) if adapter else '"."'
    code = f'model = AutoModelForImageTextToText.from_pretrained({name}, dtype="auto")\n'
    if adapter:
        code = f'from peft import PeftModel\n\n{code}model = PeftModel.from_pretrained(model, ".")\n'
    notes = "".join(f"- {note}\n" for note in vllm)
    fence = "`" * 3
    return (
        f"{fence}python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n{code}"
        f'processor = AutoProcessor.from_pretrained(".")\n{fence}\n'
        + (f"\nvLLM:\n\n{notes}" if notes else "")
    )


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of cells under their keys, all as text; "not recorded" where there is none."""
    if not rows:
        return f"Evaluation: {NOT_RECORDED}."
    head = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(
        [_cell(key) for key in head], [[_cell(row.get(key, NOT_RECORDED)) for key in head] for row in rows]
    )


def _value(value: Any) -> str:
    if value in (None, "", [], {}):
        return NOT_RECORDED
    if isinstance(value, Mapping):
        return ", ".join(f"{text_line(k)} {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return text_line(value)


def _cell(value: Any) -> str:
    return text_line(value).replace(r"\|", "|")  # `tables.markdown` escapes it
