"""Copy an adapter or a merged model to a folder that others can load, with its cards; upload it if asked::

    repic export runs/mine out --base Qwen/Qwen2.5-VL-7B-Instruct --facts facts.yaml --rows rows.json
    repic export merged out --captions test=captions.json --push someone/my-captioner

The folder loads in plain `transformers` and `peft`, and in vLLM (`vllm_faults` names exceptions).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repic_core.io.files import read_json, read_yaml, write_text_atomic
from repic_core.publish import cards
from repic_core.publish.loadable import folder_faults, vllm_faults
from repic_core.publish.merge import PROCESSOR_FILES, copy_processor, folder_beside
from repic_core.publish.verify import merge_section
from repic_core.training.run_record import hash_files

# What a user can state about a model (a mapping, or --facts FILE.yaml); what is left out is "not recorded".
FACTS = ("base", "base_revision", "license", "datasets", "data", "recipe", "rewards", "evaluation", "notes")
# Settings that say nothing about the model.
OF_THE_RUN = ("disable_tqdm", "debug", "report_to", "logging_steps", "accelerator_config")
# Files that are copied besides the weights and the processor.
OTHERS = ("config.json", "adapter_config.json", "merge_report.json", "metrics.csv")

logger = logging.getLogger(__name__)


class ExportError(ValueError):
    """Something can't be exported, or would not load; nothing was written."""


def export(
    source: str | Path,
    out: str | Path,
    base: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
    rows: Sequence[Any] | None = None,
    push: str | None = None,
    private: bool = True,
) -> Path:
    """Copy an adapter or a model from `source` to `out` in the hub's layout, with model card and dataset card.

    Args:
        source: a folder with ``adapter_model.safetensors`` or a saved (merged) model.
        base: the model that the adapter belongs to, by default the one in its configuration; the processor is
            copied from there if `source` has none.
        facts: what the card says, with the keys of `FACTS`; ``run.json`` and ``merge_report.json`` beside the
            weights are read too.
        rows: the training rows (`rows.read_rows`), for ``dataset_card.md``. The rows and photos are not copied.
        push: a hub repository, ``name/model``; it is created if needed, and `out` is uploaded to it.
        private: whether a created repository is private.

    Returns:
        `out`.

    Raises:
        ExportError: `source` is no model, `out` is not empty, a fact is unknown, a part is missing; nothing was
            written.
    """
    source, out = Path(source).expanduser(), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: already exists and is not empty: give another folder")
    if push is not None and not cards.HUB_ID.fullmatch(push):
        raise ExportError(f"push {push!r}: must be a hub repository such as 'name/model'")
    facts = check_facts(facts or {})
    adapter = (source / "adapter_config.json").is_file()
    weights = sorted(source.glob("adapter_model.safetensors" if adapter else "model*.safetensors"))
    if not weights or not (adapter or (source / "config.json").is_file()):
        raise ExportError(f"{source}: neither an adapter nor a model in safetensors: give the folder of one")
    known = _recorded(source, adapter, base) | {key: value for key, value in facts.items() if value}
    with folder_beside(out) as folder:
        copied = [*weights, *source.glob("*.safetensors.index.json")]
        copied += [source / name for name in (*OTHERS, *PROCESSOR_FILES)]
        for path in copied:
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        _complete_processor(folder, base or known.get("base_path"))
        if adapter:
            _clean_config(folder, known.get("base"))
        faults = folder_faults(folder)
        if faults:
            raise ExportError(f"{source}: can't be loaded as it is: {'; '.join(faults)}")
        write_text_atomic(folder / "README.md", cards.model_card(known, adapter, vllm_faults(folder)))
        if rows is not None:
            write_text_atomic(folder / "dataset_card.md", cards.dataset_card(rows, known))
    if push:
        _push(out, push, private)
    return out


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts in a YAML file, keys of `FACTS` (`check_facts` looks at them).

    Raises:
        ExportError: no file, not YAML, or no lines of ``key: value``.
    """
    return read_yaml(Path(path), ExportError)


def check_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, checked; `ExportError` names the first that is unknown or of the wrong type."""
    kinds = {"datasets": list, "evaluation": list, "data": Mapping, "recipe": Mapping, "rewards": list}
    for key, value in facts.items():
        if key not in FACTS:
            raise ExportError(f"facts, {key!r}: unknown; use {', '.join(FACTS)}")
        kind = kinds.get(key, str)
        if value is not None and not isinstance(value, kind):
            raise ExportError(f"facts, {key!r}: must be a {kind.__name__.lower()}, not {value!r}")
    if not all(isinstance(row, Mapping) for row in facts.get("evaluation") or ()):
        raise ExportError("facts, 'evaluation': must be a list of rows, each a mapping of columns to values")
    if not all(isinstance(name, str) for name in facts.get("datasets") or ()):
        raise ExportError("facts, 'datasets': must be a list of names")
    return dict(facts)


def _recorded(source: Path, adapter: bool, base: str | Path | None) -> dict[str, Any]:
    """What the files beside the weights say: base, revision, merge report, recipe and run."""
    known: dict[str, Any] = {}
    merge = source / "merge_report.json"
    if merge.is_file():
        report = read_json(merge, ExportError)
        try:
            known |= {"base": report["base"], "base_revision": report["base_revision"]}
            known["merge"] = merge_section(report)
        except (KeyError, TypeError) as error:
            raise ExportError(f"{merge}: not the report of a merge ({error!r}): merge again") from None
    if adapter:
        config = read_json(source / "adapter_config.json", ExportError)
        known |= {"base_path": config.get("base_model_name_or_path"), "base_revision": config.get("revision")}
        known["lora"] = {
            key: config.get(key) for key in ("r", "lora_alpha", "lora_dropout", "target_modules")
        }
    if base or known.get("base_path"):
        known["base"] = cards.named(base or known["base_path"])
    return known | _recorded_run(source)


def _recorded_run(source: Path) -> dict[str, Any]:
    """What ``run.json`` says, if it is the record of these weights."""
    run = source / "run.json"
    if not run.is_file():
        return {}
    record = read_json(run, ExportError)
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, dict) or result.get("weights") != hash_files(source):
        # for example, because a later run was started in this folder
        logger.warning("%s: is not the record of these weights; left out of the card", run)
        return {}
    return _run_facts(record)


def _run_facts(record: dict[str, Any]) -> dict[str, Any]:
    """What a card says of a ``run.json`` (`run_record`); without paths, which only one machine has."""
    data, model, settings = (_mapping(record.get(name)) for name in ("data", "model", "settings"))
    sessions = [session for session in record.get("sessions") or [] if isinstance(session, dict)]
    last = sessions[-1] if sessions else {}
    rewards = list(record.get("rewards") or [])
    if record.get("kind") == "grpo" and settings.get("reward_profile"):
        rewards.insert(0, [f"personalization ({settings['reward_profile']})", 1.0])
    shown = {key: value for key, value in settings.items() if key not in OF_THE_RUN}
    recipe = {
        "name": Path(str(record.get("recipe") or cards.NOT_RECORDED)).name,
        "settings": {key: value for key, value in shown.items() if value not in (None, "", [], {})},
    }
    run = {"seeds": record.get("seeds"), "image size": model.get("image_size")}
    run |= {key: last.get(key) for key in ("commit", "versions", "device", "processes")}
    counted = {key: data.get(key) for key in ("count", "sha256")}
    found = {"recipe": recipe, "rewards": rewards, "data": counted, "run": run}
    return {key: value for key, value in found.items() if value}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def evaluation_rows(
    captions: Mapping[str, str | Path], database: str | Path | None = None
) -> list[dict[str, str]]:
    """Precision, recall and F1 of names (`span`) in percent with 95% intervals by photo, one row per caption file.

    Args:
        captions: caption files by the name that the table shows.
        database: the concepts that they name.

    Raises:
        CaptionFileError: a file can't be used, or holds no captions; names it.
    """
    from repic_core.captioner.caption_files import scored_records
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.evaluation.intervals import score_intervals

    concepts = None if database is None else ConceptDatabase.load(database, check_images=False)
    rows = []
    for name, path in captions.items():
        records = scored_records(path)
        scores = score_intervals(records, "span", concepts)
        photos = len({record.query for record in records})
        row = {"captions": name, "n": f"{len(records)} of {photos} photos"}
        rows.append(row | {key: str(value) for key, value in scores.items()})
    return rows


def _complete_processor(folder: Path, base: str | Path | None) -> None:
    """Add what is missing: processor and tokenizer from the base, and the ``preprocessor_config.json`` that vLLM
    and older `transformers` read."""
    if not (folder / "tokenizer_config.json").is_file():
        if base is None:
            raise ExportError("no processor beside the weights: give base=, the model that it is copied from")
        copy_processor(base, folder)
    whole, part = folder / "processor_config.json", folder / "preprocessor_config.json"
    if whole.is_file() and not part.is_file():
        config = read_json(whole, ExportError)
        if isinstance(config.get("image_processor"), dict):
            image = config["image_processor"] | {"processor_class": config.get("processor_class")}
            write_text_atomic(part, json.dumps(image, indent=2) + "\n")


def _clean_config(folder: Path, base: str | None) -> None:
    """Replace the base's path on this machine in the adapter's configuration by the base's name."""
    path = folder / "adapter_config.json"
    config = read_json(path, ExportError)
    if base:
        config["base_model_name_or_path"] = base
    write_text_atomic(path, json.dumps(config, indent=2) + "\n")


def _push(folder: Path, repository: str, private: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(folder_path=str(folder), repo_id=repository)
