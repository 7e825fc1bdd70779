"""What a command takes where its flags leave it out."""

import json

import pytest

from helpers.places import BASE
from repic_core.cli import parse
from repic_core.cli.options import AUTHORS_MODEL, Chosen, chosen, defaults_for, load_chosen, named_file
from repic_core.models.loading import PAPER_MAX_PIXELS, ModelError
from repic_core.retrieval.embedders import TOWER_SIDE
from repic_core.toyworld.photos import REFERENCE_SIDE

TOY = Chosen(str(BASE), None, None, REFERENCE_SIDE)
PUBLISHED = Chosen(AUTHORS_MODEL, "inference", PAPER_MAX_PIXELS, TOWER_SIDE)


def adapter_on(folder, base):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return str(folder)


def test_the_authors_model_as_they_run_it_is_the_fallback():
    assert defaults_for(None) == PUBLISHED
    evaluation = defaults_for(None, published="evaluation")
    assert (evaluation.system, evaluation.reference_style) == ("evaluation", "numbered")
    assert defaults_for("Qwen/Qwen2.5-VL-7B-Instruct") == Chosen(
        "Qwen/Qwen2.5-VL-7B-Instruct", "inference", PAPER_MAX_PIXELS, TOWER_SIDE
    )
    assert defaults_for("Qwen/Q", published=None) == Chosen("Qwen/Q", None, PAPER_MAX_PIXELS, TOWER_SIDE)
    assert PAPER_MAX_PIXELS == 802816 and TOWER_SIDE == 448  # as `--help` says
    assert REFERENCE_SIDE == 48


def test_the_toy_takes_no_prompt_and_photos_as_they_are():
    for published in ("inference", "evaluation"):
        assert defaults_for(str(BASE), published=published) == TOY


def test_an_adapter_brings_its_model(tmp_path):
    assert defaults_for(None, adapter_on(tmp_path / "toy", str(BASE))) == TOY
    assert defaults_for(None, adapter_on(tmp_path / "real", "Qwen/Q")).model == "Qwen/Q"
    assert defaults_for(None, "someone/adapter") == PUBLISHED  # on the hub: not looked at
    assert defaults_for(str(BASE), adapter_on(tmp_path / "other", "Qwen/Q")) == TOY


@pytest.mark.parametrize(
    "config", [None, "{", "[]", '{"text_config": 3}', '{"text_config": {"vocab_size": "many"}}']
)
def test_a_folder_that_says_nothing_is_no_toy(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert defaults_for(str(tmp_path)) == Chosen(str(tmp_path), "inference", PAPER_MAX_PIXELS, TOWER_SIDE)


def options(*more):
    return parse(["caption", "a.jpg", "--references", "photos", *map(str, more)])


def test_what_is_given_goes_first():
    assert chosen(options()) == PUBLISHED and PUBLISHED.reference_style == "tag"
    assert chosen(options("--reference-style", "numbered")).reference_style == "numbered"
    assert chosen(options("--reference-style", "tag"), "evaluation").reference_style == "tag"
    assert chosen(options("--model", BASE)) == TOY
    given = ("--system", "none", "--max-pixels", 0, "--side", 100)
    assert chosen(options(*given)) == Chosen(AUTHORS_MODEL, None, None, 100)
    assert chosen(options("--model", BASE, "--system", "evaluation", "--max-pixels", 9)) == Chosen(
        str(BASE), "evaluation", 9, REFERENCE_SIDE
    )


@pytest.mark.parametrize("name", ["inference", "inference-2025", "evaluation"])
def test_system_prompts_by_name(name):
    assert chosen(options("--system", name)).system == name
    assert chosen(options("--system", "none")).system is None


@pytest.mark.parametrize(
    "name", ["evalution", "None", "NONE", " none", "", "Say who it is.", "inference.txt"]
)
def test_what_is_no_name_of_a_system_prompt(name):
    """A typo never becomes a prompt."""
    with pytest.raises(
        ValueError,
        match="use inference, inference-2025, evaluation or none; a prompt of your own goes into --sys",
    ):
        chosen(options("--system", name))


def test_a_system_prompt_of_ones_own(tmp_path):
    assert chosen(options("--system-text", "Say who it is.")).system == "Say who it is."
    file = tmp_path / "prompt.txt"
    file.write_bytes("\ufeffSay who it is.\nÜber all.\n".encode())
    assert chosen(options("--system-file", file)).system == "Say who it is.\nÜber all."
    for content, message in (
        (b" \n", "is empty"),
        (b"\xff\xfeS\x00", "can't be read"),
        (None, "No such file"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=f"--system-file .*prompt.txt: .*{message}"):
            chosen(options("--system-file", file))


@pytest.mark.parametrize(
    "command",
    [
        ["caption", "a.jpg", "--references", "photos"],
        ["evaluate", "--root", "official"],
        ["merge", "base", "adapter", "out"],
        ["demo", "live"],
    ],
)
def test_every_command_with_a_system_prompt_has_the_same_flags(command, capsys):
    for more in (["--system", "none"], ["--system-text", "Be brief."], ["--system-file", "a.txt"]):
        assert parse([*command, *more])
    with pytest.raises(SystemExit):
        parse([*command, "--system", "none", "--system-text", "Be brief."])
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'zero-shot': use inference, inference-2025, evaluation or none"):
        chosen(parse([*command, "--system", "zero-shot"]), "evaluation")


def test_without_the_hub_the_error_names_what_to_try():
    with pytest.raises(ModelError, match=r"RePIC_Qwen2\.5VL_7B: no such folder.*--model assets/toy-base"):
        load_chosen(PUBLISHED, None)
    with pytest.raises(ModelError) as error:
        load_chosen(Chosen("nobody/nothing", None, None, 1), None)
    assert "toy-base" not in str(error.value)


def test_a_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("lr=1e-5", "a=b=c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours=1.json").write_text("[]")
    assert {text: named_file(text) for text in NAMED} == NAMED


NAMED = {
    "x.json": ("x", "x.json"),
    "ours=x.json": ("ours", "x.json"),
    "lr=1e-5/ours=1.json": ("ours=1", "lr=1e-5/ours=1.json"),
    "mine=lr=1e-5/ours=1.json": ("mine", "lr=1e-5/ours=1.json"),
    "a=b=lr=1e-5/ours=1.json": ("a=b", "lr=1e-5/ours=1.json"),
    "a=b=c/ours=1.json": ("ours=1", "a=b=c/ours=1.json"),
    "mine=none=1/x.json": ("mine", "none=1/x.json"),
}
