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
gives in the prompt. It names only what the prompt shows it. It can't find out who a stranger is, and it must not be
used to identify, track or judge people."""
LIMITS = """\
A caption can name the wrong concept or one that is not in the photo, and can repeat the information given on a
reference as if it were visible in the photo. Captions become less reliable with more references, with concepts that
look alike and with small or hidden faces. What the base model gets wrong, this model gets wrong too."""
PRIVACY = """\
Reference photos of people are personal data, and in many places biometric data. Use photos only of people who
agreed to this use (for children, their guardians must agree), keep the photos no longer than needed, and delete
them and everything made from them when someone asks. Weights tuned on photos of people may reveal something about
them: do not publish such weights without the consent of the people shown."""


def model_card(known: Mapping[str, Any], adapter: bool, vllm: Sequence[str] = ()) -> str:
    """The text of the model card (README.md); what is not in `known` is "not recorded".

    Args:
        known: facts with the keys of `export.FACTS`, and what `export` reads from the files beside the weights.
        vllm: notes on how vLLM loads the adapter.
    """
    base = text_line(known.get("base") or NOT_RECORDED)
    kind = "A LoRA adapter for" if adapter else "Made from"
    about = f"{kind} {base}: captions of photos that use the names of the concepts given in the prompt "
    about += "([RePIC](https://arxiv.org/abs/2506.18369))."
    model = {
        "Base": known.get("base"),
        "Revision": known.get("base_revision"),
        "License": known.get("license"),
        "Adapter": known.get("lora") if adapter else "none (whole model)",
    }
    training = {
        "Data": known.get("data"),
        "Data sets": known.get("datasets"),
        "Recipe": known.get("recipe"),
        "Rewards": known.get("rewards"),
        "Run": known.get("run"),
        "Notes": known.get("notes"),
    }
    not_merged = "Not merged." if adapter else f"{NOT_RECORDED.capitalize()}."
    sections = {
        "Model": f"{about}\n\n{bullets(model)}",
        "Use": _usage(known.get("base"), adapter, vllm),
        "Training": bullets(training),
        "Evaluation": evaluation_table(known.get("evaluation") or ()),
        "Merge": known.get("merge") or not_merged,
        "Intended use": INTENDED_USE,
        "Limits": LIMITS,
        "Consent and privacy": PRIVACY,
    }
    texts = [f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items()]
    return _model_head(known, adapter) + "\n# Personalised captioner\n" + "".join(texts)


def _model_head(known: Mapping[str, Any], adapter: bool) -> str:
    if adapter:
        library, relation = "peft", "adapter"
    elif "merge" in known:
        library, relation = "transformers", "merge"
    else:
        library, relation = "transformers", "finetune"
    datasets = known.get("datasets") or []
    return front_matter(
        known.get("base"), known.get("base_revision"), library, known.get("license"), datasets, relation
    )


def _usage(base: str | None, adapter: bool, vllm: Sequence[str]) -> str:
    """How to load the model, as Python code, and notes on vLLM."""
    name = json.dumps(base or "BASE", ensure_ascii=False) if adapter else '"."'
    code = f'model = AutoModelForImageTextToText.from_pretrained({name}, dtype="auto")\n'
    if adapter:
        code = f'from peft import PeftModel\n\n{code}model = PeftModel.from_pretrained(model, ".")\n'
    fence = "`" * 3
    text = f"{fence}python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n{code}"
    text += f'processor = AutoProcessor.from_pretrained(".")\n{fence}\n'
    if vllm:
        text += "\nvLLM:\n\n" + "".join(f"- {note}\n" for note in vllm)
    return text


def dataset_card(rows: Sequence[Any], known: Mapping[str, Any]) -> str:
    """The card of the training rows: format, counts by method, sources, licence, consent."""
    photos = {image for row in rows for image in row.images}
    data = known.get("data") or {}
    head = yaml_block(
        {
            "license": data.get("license") or "unknown",
            "task_categories": ["image-to-text"],
            "tags": ["personalization", "repic"],
        }
    )
    counts = {name: sum(row.method == name for row in rows) for name in TASKS}
    counted = "\n".join(f"- {TASKS[name].label} (`{name}`): {count}" for name, count in counts.items())
    sources = {
        "Sources": data.get("sources"),
        "License": data.get("license"),
        "Names": known.get("datasets"),
    }
    return (
        f"{head}\n# Training rows\n\n{len(rows)} rows on {len(photos)} photos. Each row has `image` (one path or a "
        "list), `problem` (the prompt), `solution` (yes/no, a box `[x1, y1, x2, y2]` in pixels, or names) and "
        f"`accu_reward_method`:\n\n{counted}\n\n## Sources and licence\n\n{bullets(sources)}\n\n## Consent\n\n"
        f"{bullets({'Consent of the people shown': data.get('consent')})}\n\n{PRIVACY}\n"
    )


def front_matter(
    base: str | None,
    revision: str | None,
    library: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    relation: str | None = None,
) -> str:
    """The YAML block of a model card, with what is known; names that are not hub ids are left out."""
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
    """Front matter; any text in `values` is written so that it is read back unchanged."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, width=1000)}---\n"


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows, each a mapping of columns to values, as a Markdown table; "not recorded" where a value is missing."""
    if not rows:
        return f"Evaluation: {NOT_RECORDED}."
    head = list(dict.fromkeys(key for row in rows for key in row))
    body = [[_cell(row.get(key, NOT_RECORDED)) for key in head] for row in rows]
    return markdown([_cell(key) for key in head], body)


def _cell(value: Any) -> str:
    return text_line(value).replace(r"\|", "|")  # `tables.markdown` escapes it


def bullets(values: Mapping[str, Any]) -> str:
    """``- key: value`` lines; a value that is None or empty is "not recorded"."""
    return "\n".join(f"- {key}: {_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if value in (None, "", [], {}):
        return NOT_RECORDED
    if isinstance(value, Mapping):
        return ", ".join(f"{text_line(k)} {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return text_line(value)


def text_line(text: Any) -> str:
    """A user's text as one line of Markdown in which no mark-up, HTML, link or front matter takes effect.

    >>> text_line("<b>my\\n---\\n[photos](x)")
    '&lt;b&gt;my --- \\\\[photos\\\\](x)'
    """
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def named(name_or_path: str | Path) -> str:
    """A hub id as it is; of a local folder only its name, because others read the card."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.is_dir() else str(name_or_path)


def versions() -> dict[str, str]:
    """The installed versions of the packages that a model depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = NOT_RECORDED
    return found
