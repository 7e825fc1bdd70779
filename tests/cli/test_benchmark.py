"""``repic benchmark``: what is printed and written, and what is refused (the measures have their own tests)."""

import json

from repic_core.cli import main


def test_an_index_is_measured_in_a_process_of_its_own(tmp_path, capsys):
    out = tmp_path / "found.json"
    index = ["benchmark", "large-index", "--sizes", "1000", "--kinds", "spread"]
    assert main([*index, "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    measured = json.loads(printed.out)
    (found,) = measured["found"]
    assert (found["vectors"], found["kind"], found["exact"], found["recall@10"]) == (
        1000,
        "spread",
        True,
        1.0,
    )
    assert json.loads(out.read_text()) == measured and measured["machine"]["date"]
    assert printed.err.startswith("| 1,000 | spread, exact | ")  # each as it comes


def test_what_is_wrong_is_one_line(capsys):
    wrong = {
        "repic benchmark large-index: sizes must be at least 200\n": ["large-index", "--sizes", "100"],
        "repic benchmark merge-drift: --adapter and --data go together\n": ["merge-drift", "--data", "x"],
    }
    for message, arguments in wrong.items():
        assert main(["benchmark", *arguments]) == 2
        assert capsys.readouterr().err == message
