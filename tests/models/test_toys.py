"""The toy base says once, on stderr, that it can't read real photos; it says nothing about toys."""

import json
import subprocess
import sys
import threading

import pytest
from PIL import Image

from repic_core.captioner.caption_files import CaptionItem
from repic_core.captioner.captioner import Captioner
from repic_core.captioner.kept_references import PrefixCaptioner
from repic_core.cli import main
from repic_core.concepts.concept import Concept
from repic_core.models import toys
from repic_core.models.loading import load_model
from repic_core.toyworld.photos import REFERENCE_SIDE, SCENE_SIDE

TOY = Image.new("RGB", (REFERENCE_SIDE, REFERENCE_SIDE), "#cc8844")
SCENE = Image.new("RGB", (SCENE_SIDE, SCENE_SIDE), "#448866")
PHOTO = Image.new("RGB", (640, 480), "#4466cc")
BO = Concept("<bo>", "bo", TOY)


@pytest.fixture(scope="module")
def loaded(base):
    return load_model(base)


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(toys, "_said", threading.Lock())
    return lambda: [record.getMessage() for record in caplog.records if record.name == toys.__name__]


@pytest.mark.parametrize("make", [Captioner, PrefixCaptioner])
def test_real_photos_are_told_once(loaded, said, make):
    captioner = make(*loaded, system=None, max_new_tokens=2)
    captioner.caption(SCENE, [BO])
    captioner.caption_many([CaptionItem(SCENE, [BO], "?")], progress=False)
    list(captioner.stream(SCENE, [BO]))
    assert said() == []
    captioner.caption(SCENE, [Concept("<mia>", "mia", PHOTO)])  # a reference counts, too
    captioner.caption(PHOTO, [BO])
    captioner.caption_many([CaptionItem(PHOTO, [BO], "?")], progress=False)
    list(captioner.stream(PHOTO, [BO]))
    (line,) = said()
    assert "640 x 480" in line and f"--model {toys.AUTHORS_MODEL}" in line and "\n" not in line


@pytest.mark.parametrize("ask", ["many", "stream", "answer"])
def test_every_way_to_ask_tells_it(loaded, said, ask):
    captioner = Captioner(*loaded, system=None, max_new_tokens=2)
    if ask == "many":
        captioner.caption_many([CaptionItem(PHOTO, [BO], "?")], progress=False)
    elif ask == "stream":
        list(captioner.stream(PHOTO, [BO]))
    else:
        content = [{"type": "image", "image": PHOTO}, {"type": "text", "text": "Who?"}]
        captioner.answer([{"role": "user", "content": content}])
    assert len(said()) == 1


def test_other_models_say_nothing(loaded, said, monkeypatch):
    monkeypatch.setattr(toys, "TOY_WORDS", 100)
    Captioner(*loaded, system=None, max_new_tokens=2).caption(PHOTO, [BO])
    assert said() == []


def test_the_command_says_it_beside_its_json(base, tmp_path, said, capsys):
    for name in ("a", "b", "bo"):
        PHOTO.save(tmp_path / f"{name}.png")
    entry = {"name": "bo", "image": "bo.png", "info": "", "category": ""}
    (tmp_path / "database.json").write_text(json.dumps({"concept_dict": {"<bo>": entry}}))
    photos = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    command = ["caption", *photos, "--database", str(tmp_path / "database.json"), "--json"]
    command += ["--model", str(base), "--max-new-tokens", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "repic_core", *command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 2
    assert done.stderr.count("real weights") == 1
    assert main([*command, "--quiet"]) == 0
    assert said() == [] and len(json.loads(capsys.readouterr().out)) == 2
