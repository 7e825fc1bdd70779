"""``repic score``: the published tables to the digit, intervals, and the forms it writes."""

import csv
import json

import pytest

from repic_core.captioner.caption_files import load_captions
from repic_core.cli import main
from repic_core.concepts.database import ConceptDatabase
from repic_core.evaluation.intervals import score_intervals
from repic_core.evaluation.scores import score


def scored(capsys, *arguments):
    assert main(["score", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_published_table(official_root, capsys):
    file = official_root / "captioning/quad_concept/captioning-skip-retrieval-ours.json"
    database = official_root / "data/database_tot/database_4_concepts/database_mod.json"
    said = scored(capsys, file, "--database", database, "--root", official_root)
    head, _, row = said.splitlines()
    assert head.endswith("| span P | span R | span F1 | span F1 95% by photo |")
    assert "| 88.0 | 59.5 | 71.0 | 83.1 | 86.9 | 85.0 | 80.2 to 92.1 |" in row


def test_intervals_are_of_the_last_protocol_and_the_unit_asked_for(folder, capsys):
    file, database = folder / "ours.json", folder / "database.json"
    known = ConceptDatabase.load(database)
    records = load_captions(file)
    for protocols, unit in ((["span"], "caption"), (["span", "repic-4"], "photo")):
        arguments = (file, "--protocol", *protocols, "--intervals", unit, "--database", database)
        head, _, row = scored(capsys, *arguments).splitlines()
        found = score_intervals(records, protocols[-1], known, unit)["f1"]
        assert head.endswith(f"| {protocols[-1]} F1 95% by {unit} |")
        assert row.endswith(f"| {100 * found.low:.1f} to {100 * found.high:.1f} |")
    assert "95%" not in scored(capsys, file, "--no-intervals")


@pytest.mark.parametrize("more", [(), ("--no-intervals",), ("--json",), ("--protocol", "repic-single")])
def test_an_empty_file_has_no_score(folder, capsys, more):
    (folder / "none.json").write_text("[]")
    assert main(["score", str(folder / "ours.json"), str(folder / "none.json"), *more]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("none.json: holds no captions, so there is nothing to score\n")


def test_json(folder, capsys):
    files = (folder / "ours.json", folder / "base.json")
    ours, base = json.loads(scored(capsys, *files, "--json", "--quiet"))
    assert (ours["file"], ours["captions"], ours["photos"]) == ("ours", 3, 3)
    found = score(load_captions(files[0]), "span")
    assert ours["scores"]["span"] == {"precision": found.precision, "recall": found.recall, "f1": found.f1}
    interval = score_intervals(load_captions(files[0]), "span")["f1"]
    assert ours["f1_interval"] == {"protocol": "span", "by": "photo", "ends": [interval.low, interval.high]}
    assert base["file"] == "base" and list(base["scores"]) == ["repic-4", "span"]


@pytest.mark.parametrize("more", [(), ("--no-intervals",)])
def test_the_table_is_also_written(folder, capsys, more):
    out = ("--latex", folder / "t.tex", "--csv", folder / "t.csv")
    head, _, row = scored(capsys, folder / "ours.json", *out, *more).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, row)]
    assert list(csv.reader((folder / "t.csv").open())) == cells
    assert (folder / "t.tex").read_text().startswith(r"\begin{tabular}{l" + "r" * (len(cells[0]) - 1))
