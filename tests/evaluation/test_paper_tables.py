"""The paper's settings and the one command, on a folder laid out like the authors' repository."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest

from helpers.yolo import install
from repic_core.captioner.caption_files import CaptionRecord, item_hashes, load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.cli import main
from repic_core.evaluation import scores
from repic_core.evaluation.paper_settings import (
    SettingError,
    paper_setting,
    retrieval,
)
from repic_core.evaluation.paper_tables import HEAD, caption_setting, table_cells
from repic_core.evaluation.published import SETS
from repic_core.io import tables
from repic_core.prompts import CAPTION_QUESTIONS, QUESTION_SUFFIXES
from repic_core.retrieval.find import ConceptIndex
from repic_core.toyworld.dataset import write_heldout
from repic_core.toyworld.retrieval import toy_embedder


@pytest.fixture(scope="module")
def tiny(base):
    from repic_core.models.loading import load_model

    return load_model(base)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The authors' layout with toys: each setting's database holds all concepts, each list two or three photos."""
    root = tmp_path_factory.mktemp("RePIC")
    write_heldout(root / "toys", "val", n=3)
    known = json.loads((root / "toys/database.json").read_text())["concept_dict"]
    for entry in known.values():
        entry["image"] = f"./toys/{entry['image']}"
    queries = json.loads((root / "toys/queries.json").read_text())
    lists = {"myvlm": "1", "yollava": "1", "dreambooth": "1", "2_concept": "2", "4_concept": "4 all"}
    for name, label in lists.items():
        folder = root / "data/database_tot" / f"database_{name}{'s' if name[0] in '24' else ''}"
        folder.mkdir(parents=True)
        (folder / "database_mod.json").write_text(json.dumps({"concept_dict": known}))
        rows = {f"./toys/{q['query']}": q["references"] for q in queries[label]}
        if name == "4_concept":  # several rows per photo
            rows = {photo: [tags, tags[::-1]] for photo, tags in rows.items()}
        path = root / "data/query_tot" / f"{name}_query_templates.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
    return root


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_settings_ask_as_the_authors_do(layout):
    four = paper_setting(layout, "4-concepts")
    assert (four.name, four.protocol, four.top_k, len(four.items)) == ("4-concepts", "repic-4", 4, 6)
    one, other = four.items[:2]
    assert one.shown == other.shown[::-1] and one.query == other.query
    order = [concept.tag for concept in four.database]
    for item in (one, other):  # references are in the order of the database, not of the row
        positions = [order.index(concept.tag) for concept in item.references]
        assert positions == sorted(positions) and {c.tag for c in item.references} == set(item.shown)
    assert [item.question for item in four.items[:5]] == [
        *CAPTION_QUESTIONS["single"],
        CAPTION_QUESTIONS["single"][0],
    ]
    asked = paper_setting(layout, "2-concepts", "name", limit=1)
    assert len(asked.items) == 1 and asked.protocol == "repic-2"
    assert (
        asked.items[0].question
        == f"{CAPTION_QUESTIONS['single'][0]} Output the final answer including its name."
    )
    assert paper_setting(layout, "yollava").protocol == "repic-single"


@pytest.mark.parametrize(
    ("questions", "suffix", "first"),
    [
        ("multi", "none", "Give a personal caption of the image."),
        (
            "single",
            "given-names",
            "Give a caption of the image.Output the final answer using its given names.",
        ),
        ("inference", "none", "Give a personalized caption for the image."),
        (
            "multi",
            "name",
            "Give a personal caption of the image. Output the final answer including its name.",
        ),
    ],
)
def test_questions_and_suffixes_are_chosen(layout, questions, suffix, first):
    items = paper_setting(layout, "4-concepts", suffix, questions=questions).items
    cycle = len(CAPTION_QUESTIONS[questions])
    assert items[1].question == first
    assert [item.question for item in items[:cycle]] * 2 == [
        items[number % cycle].question for number in range(2 * cycle)
    ]
    assert all(item.question == items[number % cycle].question for number, item in enumerate(items))
    assert len({item.question for item in items}) == min(cycle, len(items))


def test_unknown_questions_and_suffixes_are_named(layout):
    with pytest.raises(SettingError, match="suffix 'names': use one of none, name, given-names"):
        paper_setting(layout, "4-concepts", "names")
    with pytest.raises(SettingError, match="questions 'double': use one of single, multi, inference"):
        paper_setting(layout, "4-concepts", questions="double")


PUBLISHED = {  # the suffix in each caption file's questions
    "double_concept/captioning-skip-retrieval-ours.json": "none",
    "double_concept/captioning-skip-retrieval-zero_shot.json": "given-names",
    "double_concept/captioning-skip-retrieval-qwen_sft.json": "given-names",
    "quad_concept/captioning-skip-retrieval-ours.json": "none",
    "quad_concept/captioning-skip-retrieval-zero_shot.json": "none",
    "quad_concept/captioning-skip-retrieval-qwen_sft.json": "none",
}


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_captions_answer_these_questions(official_root, file):
    path = official_root / "captioning" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there: it is in the authors' repository")
    suffix = QUESTION_SUFFIXES[PUBLISHED[file]]
    asked = [f"{question}{suffix}" for question in CAPTION_QUESTIONS["single"]]
    questions = [record.question for record in load_captions(path)]
    assert questions == [asked[number % 4] for number in range(len(questions))]


def test_the_authors_lists_are_read(official_root):
    four = paper_setting(official_root, "4-concepts")
    published = load_captions(official_root / "captioning/quad_concept/captioning-skip-retrieval-ours.json")
    assert [(item.label, tuple(item.shown), item.question) for item in four.items] == [
        (record.query, record.tags, record.question) for record in published
    ]
    assert len(paper_setting(official_root, "dreambooth").items) == 158
    for setting in (
        lambda: paper_setting(official_root, "myvlm"),
        lambda: paper_setting(official_root, "2-concepts"),
    ):
        # A clone has the databases, but not these photos.
        with pytest.raises(SettingError, match=r"is .* the authors' repository|photos are missing"):
            setting()


def test_what_is_missing_is_named(layout, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(layout, root)
    path = root / "data/query_tot/2_concept_query_templates.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({"./gone.png": next(iter(rows.values()))}))
    with pytest.raises(SettingError, match=r"1 photos are missing, first .*gone\.png: .*data/README\.md"):
        paper_setting(root, "2-concepts")
    path.write_text(json.dumps({photo: ["<nobody>"] for photo in rows}))
    with pytest.raises(SettingError, match=r"<nobody> is not in .*database_mod\.json"):
        paper_setting(root, "2-concepts")
    path.write_text("[]")
    with pytest.raises(SettingError, match="must be an object of photos"):
        paper_setting(root, "2-concepts")
    path.write_text(json.dumps({photo: [] for photo in rows}))
    with pytest.raises(SettingError, match="must be a list of tags"):
        paper_setting(root, "2-concepts")
    with pytest.raises(SettingError, match="use one of myvlm"):
        paper_setting(root, "imagenet")
    assert evaluate("--root", tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    assert "repic evaluate: no setting can be run\n" in capsys.readouterr().err


def test_retrieved_references_take_the_given_ones_place(layout, tiny):
    embedder = toy_embedder(*tiny)
    given = paper_setting(layout, "myvlm")
    index = ConceptIndex.build(given.database, embedder)
    found = retrieval(given, index, embedder)
    for item, before in zip(found.items, given.items, strict=True):
        assert len(item.references) == 2 and item.shown == before.shown and item.question == before.question
    everything = retrieval(given, index, embedder, k=len(given.database))
    assert all(set(i.shown) <= {c.tag for c in i.references} for i in everything.items)
    none = retrieval(given, index, embedder, threshold=1.1)
    assert all(item.references == [] and item.shown for item in none.items)


def test_one_command_from_a_model_to_the_tables(layout, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["--root", str(layout), "--out", str(out), "--settings", "dreambooth", "4-concepts"]
    model = ["--model", "assets/toy-base", "--system", "none", "--max-new-tokens", "64"]
    model += ["--reference-style", "tag"]  # the toy base knows no other
    assert evaluate(*common, *model, "--method", "zero-shot", "--zero-shot") == 0
    assert evaluate(*common, *model, "--method", "GRPO") == 0
    stamp = (out / "captions/GRPO/4-concepts.json").stat().st_mtime_ns
    assert evaluate(*common, *model, "--method", "GRPO", "--retrieval") == 0
    for other in (
        ["--suffix", "given-names"],
        ["--caption-questions", "multi"],
        ["--reference-style", "numbered"],
    ):
        capsys.readouterr()
        assert (
            evaluate(*common, *model, "--method", "GRPO", *other) == 2
        )  # the captions answer something else
        assert "4-concepts.json" in (error := capsys.readouterr().err) or "dreambooth.json" in error
    capsys.readouterr()
    assert evaluate(*common) == 0  # nothing is captioned again
    assert (out / "captions/GRPO/4-concepts.json").stat().st_mtime_ns == stamp
    capsys.readouterr()
    # all that is there is in the table, whatever is asked for
    assert evaluate(*common[:4], "--settings", "dreambooth") == 0
    text = capsys.readouterr().out.strip()
    assert (out / "table.md").read_text().strip() == text
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [(row["setting"], row["references"], row["method"], row["captions"]) for row in rows] == [
        ("dreambooth", "given", "GRPO", "3"),
        ("dreambooth", "given", "zero-shot", "3"),
        ("dreambooth", "retrieved", "GRPO", "3"),
        ("4-concepts", "given", "GRPO", "6"),
        ("4-concepts", "given", "zero-shot", "6"),
        ("4-concepts", "retrieved", "GRPO", "6"),
    ]
    # the toy base names single concepts only
    assert float(rows[0]["span F1"]) == 100.0 > float(rows[3]["span F1"])
    assert (out / "table.tex").read_text().count(r"\\") == 7
    asked = load_captions(out / "captions/zero-shot/4-concepts.json")
    assert all(record.question.endswith("including its name.") for record in asked)


def test_retrieved_references_are_confirmed(base, layout, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["--root", layout, "--out", out, "--settings", "myvlm", "--model", base, "--system", "none"]
    common += ["--max-new-tokens", "8", "--method", "base", "--retrieval"]
    assert evaluate(*common) == evaluate(*common, "--verify", "-99") == 0
    assert evaluate(*common, "--out", tmp_path / "nobody", "--verify", "99") == 0
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["references"] for row in rows] == ["retrieved", "retrieved, verified"]
    captions = out / "captions/base", tmp_path / "nobody/captions/base"
    retrieved, all_confirmed, confirmed = (
        json.loads((folder / f"myvlm-retrieval{ending}.settings.json").read_text())["items"]
        for folder, ending in zip((captions[0], *captions), ("", "-verified", "-verified"), strict=True)
    )
    # With log-odds of -99 everything is confirmed, with 99 nothing, and no reference is left.
    alone = [replace(item, references=[]) for item in paper_setting(layout, "myvlm").items]
    assert retrieved == all_confirmed != confirmed == item_hashes(alone)


def test_retrieval_as_published(base, layout, tmp_path, capsys, tiny, monkeypatch):
    notes, made = install(monkeypatch), []

    def embedder(name, device):
        made.append(name)
        return toy_embedder(*tiny)

    monkeypatch.setattr("repic_core.retrieval.embedders.PretrainedEmbedder", embedder)
    weights, out = tmp_path / "yolo.pt", tmp_path / "out"
    weights.write_bytes(b"weights")
    common = ["--root", layout, "--out", out, "--settings", "2-concepts", "--model", base, "--system", "none"]
    common += ["--max-new-tokens", "8", "--method", "base", "--retrieval", "published"]
    monkeypatch.chdir(tmp_path)
    assert evaluate(*common) == 2 and "yolov8x-worldv2.pt: no such file" in capsys.readouterr().err
    assert evaluate(*common, "--detector", weights) == 0
    assert made[-1] == "openai/clip-vit-large-patch14-336" and notes.classes == ["toy"]
    (row,) = csv.DictReader((out / "table.csv").open())
    # Nothing was detected, so there are no references, and nobody can be named.
    assert (row["references"], row["span R"]) == ("retrieved as published", "0.0")


def test_a_table_of_what_is_there(layout, tmp_path, capsys):
    out, rows = tmp_path / "out", [["a.png", ["<bo>"], "<bo> naps.", ""]]
    for method, content in (("empty", []), ("begun", rows)):
        (out / "captions" / method).mkdir(parents=True)
        (out / "captions" / method / "4-concepts.json").write_text(json.dumps(content))
    assert evaluate("--root", layout, "--out", out) == 0
    table = list(csv.DictReader((out / "table.csv").open()))
    assert [(row["method"], row["captions"]) for row in table] == [("begun", "1 of 6")]
    wrong = {
        "without slashes": ["--model", "assets/toy-base", "--method", "../x"],
        "--detector needs --retrieval": ["--model", "assets/toy-base", "--detector", "owl"],
        "--verify needs --retrieval": ["--model", "assets/toy-base", "--verify"],
        "need a --model": ["--retrieval"],
        "limit -1": ["--limit", "-1", "--settings", "myvlm"],
    }
    for message, arguments in wrong.items():
        capsys.readouterr()
        assert evaluate("--root", layout, "--out", out, *arguments) == 2
        error = capsys.readouterr().err
        assert (message if message != "limit -1" else "no setting can be run") in error
    assert "limit -1" in error


def test_one_bad_database_leaves_the_others(layout, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(layout, root)
    path = root / "data/database_tot/database_myvlm/database_mod.json"
    known = json.loads(path.read_text())
    next(iter(known["concept_dict"].values()))["image"] = "./toys/gone.png"
    path.write_text(json.dumps(known))
    assert evaluate("--root", root, "--out", tmp_path / "out", "--settings", "myvlm", "yollava") == 0
    assert "left out" in capsys.readouterr().err and (tmp_path / "out/table.md").exists()


def test_captioning_goes_on_where_it_stopped(layout, tiny, tmp_path, monkeypatch):
    captioner = Captioner(*tiny, system=None, batch_size=1, max_new_tokens=8)
    setting = paper_setting(layout, "4-concepts")
    generate, calls = Captioner._generate, []

    def counted(self, items, **options):
        if len(calls) == 4:
            calls.append("stopped")
            raise KeyboardInterrupt
        calls.append(items[0].label)
        return generate(self, items, **options)

    monkeypatch.setattr(Captioner, "_generate", counted)
    with pytest.raises(KeyboardInterrupt):
        caption_setting(setting, captioner, tmp_path)
    path = caption_setting(setting, captioner, tmp_path)
    assert len(calls) == 7 and len(load_captions(path)) == 6


def test_a_row_searches_each_caption_once_a_protocol(layout, monkeypatch):
    setting = paper_setting(layout, "4-concepts")
    records = [CaptionRecord(i.label, tuple(i.shown), f"{i.shown[0]} and <nobody>.") for i in setting.items]
    searched = {"read_names": [], "_score_published": []}
    for name, captions in searched.items():
        finder = getattr(scores, name)

        def counted(text, *arguments, finder=finder, captions=captions):
            captions.append(text if isinstance(text, str) else text.caption)
            return finder(text, *arguments)

        monkeypatch.setattr(scores, name, counted)
    cells = dict(zip(HEAD[3:], table_cells(records, setting), strict=True))
    every = [record.caption for record in records]
    assert searched == {"read_names": every, "_score_published": every}  # `span` and the published protocol
    assert (cells["captions"], cells["published R"], cells["span P"]) == ("6", "25.0", "100.0")
    assert cells["hallucinated"] == "1.00"


def test_tables():
    head, rows = ["", "F1"], [["a|b_c", "5 %"], ["<bo> & ~", "1 ± 2"]]
    assert tables.markdown(head, rows).splitlines()[2] == r"| a\|b_c | 5 % |"
    assert tables.latex(head, rows).splitlines()[4] == r"a\textbar{}b\_c & 5 \% \\"
    assert tables.latex(head, rows).splitlines()[5] == (
        r"\textless{}bo\textgreater{} \& \textasciitilde{} & 1 $\pm$ 2 \\"
    )
    assert tables.latex(head, [["[x]", "*1"]]).splitlines()[4] == r"{}[x] & {}*1 \\"
    with pytest.raises(ValueError, match="each row must have 2 cells"):
        tables.markdown(head, [["a"]])
    assert tables.csv_text(head, [["a,b", '"']]) == ',F1\n"a,b",""""\n'


def test_every_setting_is_found(layout):
    assert list(SETS) == ["myvlm", "yollava", "dreambooth", "2-concepts", "4-concepts"]
    for name in SETS:
        setting = paper_setting(layout, name, limit=2)
        assert setting.name == name and len(setting.items) == 2
