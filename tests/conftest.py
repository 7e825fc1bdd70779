"""Shared by all tests: nothing is fetched, and the authors' data is found or the test is skipped."""

import json
import os
import socket
from pathlib import Path

# Before any library reads them.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Scripts that tests start find `helpers`, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")])
)

import pytest
from PIL import Image

from helpers.pages import ONERROR, SCRIPT, TEMPLATES
from helpers.places import ROOT


@pytest.fixture(scope="session")
def official_root() -> Path:
    """The authors' data, laid out as in their repository.

    Found through REPIC_OFFICIAL_ROOT, else in ../shared/repic_official beside this repository.
    """
    root = Path(os.environ.get("REPIC_OFFICIAL_ROOT") or ROOT.parent / "shared" / "repic_official")
    if not (root / "captioning").is_dir():
        pytest.skip(
            f"the authors' data is not at {root}; set REPIC_OFFICIAL_ROOT to their repository's folder"
        )
    return root


@pytest.fixture(scope="session")
def double_concept_root(official_root) -> Path:
    """The authors' data with their 2-concept captions, which only their whole repository has."""
    if not (official_root / "captioning" / "double_concept").is_dir():
        pytest.skip(
            f"{official_root} has no captioning/double_concept; set REPIC_OFFICIAL_ROOT to a clone of "
            "github.com/oyt9306/RePIC"
        )
    return official_root


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """Folder of a random Qwen2.5-VL, for tests that need a model and none of the toy base's skills."""
    from helpers.tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with ``rows.jsonl`` of all four methods and 1 to 5 images a row."""
    from repic_core.toyworld.dataset import write_training

    folder = tmp_path_factory.mktemp("data")
    write_training(folder, 12)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A database of three concepts with hostile texts, three photos, and captions of two methods."""
    for name, color in (("bo", "red"), ("mia", "green"), ("zoe", "blue"), ("q1", "gray"), ("q2", "white")):
        Image.new("RGB", (300, 240), color).save(tmp_path / f"{name}.png")
    entries = {
        "<bo>": {"name": SCRIPT, "image": "bo.png", "info": ONERROR, "category": ""},
        "<mia>": {"name": "Mia Rose", "image": "mia.png", "info": TEMPLATES, "category": ""},
        "<zoe>": {"name": "zoe", "image": "zoe.png", "info": "", "category": ""},
    }
    (tmp_path / "database.json").write_text(json.dumps({"concept_dict": entries}))
    both = ["<bo>", "<mia>"]
    ours = [
        ["q1.png", both, f"<bo> and Mia Rose {SCRIPT}{ONERROR}{TEMPLATES}", "What?"],
        ["q2.png", both, "Mia Rose with <zoe>.</s>", SCRIPT],
        ["gone.png", both, "nobody", "What?"],
    ]
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    (tmp_path / "base.json").write_text(json.dumps(ours[2:]))
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Connections leave this machine in no test; a test that tries fails with this message."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise OSError(f"tests stay offline, but something connects to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The address of ``transformers serve`` with the toy base, started once."""
    from helpers.served import served_toy

    with served_toy(tmp_path_factory.mktemp("serve")) as address:
        yield address
