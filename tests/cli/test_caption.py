"""``repic caption``: what it prints and writes, which references it takes, with a random model for the toy base."""

import json
import shutil

import pytest

from helpers.places import BASE
from repic_core.captioner.caption_files import load_captions
from repic_core.captioner.captioner import Captioner
from repic_core.cli import main
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.task_scores import locate
from repic_core.retrieval.embedders import TowerEmbedder
from repic_core.retrieval.find import ConceptIndex, find_concepts
from repic_core.retrieval.regions import windows
from repic_core.retrieval.verify import Verifier
from repic_core.toyworld.dataset import write_heldout

QUESTION = "Give a personalized caption of this image."


@pytest.fixture(scope="module")
def toy(base):
    from repic_core.models.loading import load_model

    return load_model(base)


@pytest.fixture(autouse=True)
def loaded(toy, monkeypatch):
    """Each way in which the toy base was loaded; the random model is taken in its place."""
    calls = []

    def load(name, **settings):
        calls.append((name, settings))
        return toy

    monkeypatch.setattr("repic_core.models.loading.load_model", load)
    return calls


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(folder of a database, paths of two scenes, the tags of two of its concepts for each)"""
    folder = tmp_path_factory.mktemp("toys")
    write_heldout(folder, "val", n=2)
    queries = json.loads((folder / "queries.json").read_text())["2"]
    return folder, [str(folder / q["query"]) for q in queries], [q["references"] for q in queries]


@pytest.fixture
def photos(toys, tmp_path):
    """A folder of photos of the first scene's two concepts."""
    folder, _, tags = toys
    database = ConceptDatabase.load(folder / "database.json")
    for number, concept in enumerate(database.select(*tags[0])):
        place = tmp_path / "photos" / (f"{concept.name}/1.png" if number else f"{concept.name}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(concept.images[0], place)
        text = place.with_suffix(".txt") if not number else place.parent / "info.txt"
        text.write_text(f"{concept.info}\n")
    return tmp_path / "photos"


def caption(*arguments):
    return main(["caption", *map(str, arguments), "--model", str(BASE), "--max-new-tokens", "48"])


def line(text):
    """A caption as it is printed; a random model's may have several lines."""
    return " ".join(text.split())


def expected(toy, database, photo, tags):
    captioner = Captioner(*toy, system=None, max_new_tokens=48)
    return captioner.caption(photo, database.select(*tags))


def test_one_photo_is_the_caption_alone(toys, toy, loaded, capsys):
    folder, scenes, tags = toys
    database = ConceptDatabase.load(folder / "database.json")
    assert caption(scenes[0], "--database", folder / "database.json", "--concepts", *tags[0]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{line(expected(toy, database, scenes[0], tags[0]))}\n" and printed.err == ""
    assert loaded == [
        (str(BASE), {"adapter": None, "max_pixels": None, "min_pixels": None, "device": "auto"})
    ]


def test_concepts_are_named_with_or_without_brackets(toys, capsys):
    folder, scenes, tags = toys
    said = []
    for names in (tags[0], [tag[1:-1] for tag in tags[0]]):
        assert caption(scenes[0], "--database", folder / "database.json", "--concepts", *names) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_several_photos_are_a_line_each_and_a_file(toys, photos, toy, tmp_path, capsys):
    _, scenes, tags = toys
    out = tmp_path / "captions.json"
    assert caption(*scenes, "--references", photos, "--out", out) == 0
    printed = capsys.readouterr()
    lines = [row.split("\t") for row in printed.out.splitlines()]
    assert [photo for photo, _ in lines] == scenes and f"captions written to {out}" in printed.err
    records = load_captions(out)
    assert [[r.query, line(r.caption)] for r in records] == lines
    assert all(sorted(r.tags) == sorted(tags[0]) and r.question == QUESTION for r in records)
    assert not (photos / "database.json").exists()  # nothing is written beside the photos


def test_a_caption_file_is_continued(toys, photos, tmp_path, monkeypatch, capsys):
    _, scenes, _ = toys
    out, calls, generate = tmp_path / "captions.json", [], Captioner._generate

    def counted(self, items, **options):
        calls.append(len(items))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, items, **options)

    monkeypatch.setattr(Captioner, "_generate", counted)
    same = (*scenes, "--references", photos, "--out", out, "--batch-size", 1)
    assert caption(*same) == 130
    assert "repic caption: stopped; with --out the same command continues" in capsys.readouterr().err
    assert caption(*same) == 0 and calls == [1, 1, 1]
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert caption(*same, "--question", "Who?") == 2
    assert "its question is" in capsys.readouterr().err


def test_json_and_quiet(toys, photos, capsys):
    _, scenes, tags = toys
    assert caption(*scenes, "--references", photos, "--json", "--boxes", "--quiet", "--question", "Who?") == 0
    printed = capsys.readouterr()
    answers = json.loads(printed.out)
    assert printed.err == "" and [answer["photo"] for answer in answers] == scenes
    for answer in answers:
        assert set(answer) == {"photo", "caption", "concepts", "question", "boxes"}
        assert answer["question"] == "Who?" and sorted(answer["concepts"]) == sorted(tags[0])
        assert set(answer["boxes"]) == set(answer["concepts"])


def test_boxes_are_those_of_the_model_in_pixels_of_the_photo(toys, toy, capsys):
    folder, scenes, tags = toys
    database = ConceptDatabase.load(folder / "database.json")
    assert caption(scenes[0], "--database", folder / "database.json", "--concepts", *tags[0], "--boxes") == 0
    _, *lines = capsys.readouterr().out.splitlines()
    wanted = locate(*toy, scenes[0], database.select(*tags[0]))
    for line, tag, box in zip(lines, tags[0], wanted, strict=True):
        assert line == f"  {tag}\t{' '.join(str(round(edge)) for edge in box) if box else 'no box'}"


def test_retrieved_references_are_the_nearest(toys, toy, loaded, capsys):
    folder, scenes, _ = toys
    database = ConceptDatabase.load(folder / "database.json")
    embedder = TowerEmbedder(*toy, 48)
    index = ConceptIndex.build(database, embedder)
    assert caption(*scenes, "--database", folder / "database.json", "--retrieve", 3, "--json") == 0
    for answer, scene in zip(json.loads(capsys.readouterr().out), scenes, strict=True):
        hits = find_concepts(scene, index, embedder, windows, 3)
        assert answer["concepts"] == [hit.tag for hit in hits] and len(hits) == 3
        assert answer["caption"] == expected(toy, database, scene, answer["concepts"])


def test_retrieved_references_are_confirmed_by_the_model(toys, toy, loaded, capsys):
    folder, scenes, _ = toys
    database = ConceptDatabase.load(folder / "database.json")
    embedder = TowerEmbedder(*toy, 48)
    index = ConceptIndex.build(database, embedder)
    wanted = ("--database", folder / "database.json", "--retrieve", 4, "--json", "--verify")
    sure = []
    for scene in scenes:
        find_concepts(
            scene,
            index,
            embedder,
            windows,
            4,
            confirm=lambda found: sure.extend(Verifier(*toy, database).sureness(found)) or [],
        )
    assert len(sure) == 8
    middle = round(sum(sorted(sure)[3:5]) / 2, 3)
    for least, kept in ((0.0, sum(one >= 0 for one in sure)), (middle, 4), (1e6, 0)):
        assert caption(*scenes, *wanted, *([least] if least else [])) == 0
        answers = json.loads(capsys.readouterr().out)
        for answer, scene in zip(answers, scenes, strict=True):
            found = find_concepts(scene, index, embedder, windows, 4, confirm=Verifier(*toy, database, least))
            assert answer["concepts"] == [hit.tag for hit in found]
        assert sum(len(answer["concepts"]) for answer in answers) == kept


def test_verify_needs_retrieve(toys, capsys):
    folder, scenes, _ = toys
    assert caption(scenes[0], "--database", folder / "database.json", "--verify") == 2
    assert "give --retrieve K as well" in capsys.readouterr().err


def test_many_reference_photos_are_told(toys, capsys):
    folder, scenes, _ = toys
    several = ConceptDatabase.load(folder / "database.json")
    assert sum(len(concept.images) for concept in several) > 8
    assert caption(scenes[0], "--database", folder / "database.json", "--max-pixels", 1024) in (0, 2)
    error = capsys.readouterr().err
    assert "reference photos; --retrieve K or --concepts takes fewer" in error


def test_what_is_wrong_is_said_before_the_model_is_loaded(toys, photos, tmp_path, loaded, capsys):
    folder, scenes, _ = toys
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.json").write_text('{"concept_dict": {}}')
    database = ("--database", folder / "database.json")
    wrong = {
        "gone.jpg does not exist": (tmp_path / "gone.jpg", *database),
        "text.jpg is not a readable image": (tmp_path / "text.jpg", *database),
        "no concept nobody in": (scenes[0], *database, "--concepts", "nobody"),
        "empty: holds no photo, nor": (scenes[0], "--references", tmp_path / "empty"),
        "empty.json: holds no concept": (scenes[0], "--database", tmp_path / "empty.json"),
        "nowhere: no such folder": (scenes[0], "--references", tmp_path / "nowhere"),
    }
    for message, arguments in wrong.items():
        assert caption(*arguments) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.startswith("repic caption: ")
        assert printed.err.count("\n") == 1 and printed.out == ""
    assert not loaded
