"""The notebooks are run once, in order, as ``repic notebooks --profile quick`` runs them."""

import contextlib
from pathlib import Path

import pytest

from helpers.notebooks import FOLDER
from repic_core.notebooks.parameters import read_profile
from repic_core.notebooks.runner import run_all


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, request) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    parameters = read_profile("quick", FOLDER)
    with contextlib.suppress(pytest.skip.Exception):  # the toy parts run without the authors' data
        parameters["official_root"] = str(request.getfixturevalue("official_root").resolve())
    run_all(FOLDER, folder, parameters)
    return folder
