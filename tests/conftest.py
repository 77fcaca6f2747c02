# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: replicas of hub checkpoints, the samples, the embedded model, and what every test keeps to."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not eat the cores they wait for
# Test processes beside each other share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
import torch
from clips import make_clip

from vidcomp.cli.app import run

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_nano_recipe.py")


@pytest.fixture(scope="session")
def replicas(tmp_path_factory):
    """A function: family name -> folder of a tiny checkpoint with the hub's file layout."""
    from replicas import make

    root = tmp_path_factory.mktemp("replicas")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            make(root, name)
        return root / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def no_process_of_the_user(tmp_path_factory):
    """Commands of tests find no model that their user keeps warm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session", autouse=True)
def any_processor():
    """Replicas are stored in half precision; the format that they are loaded in is not to depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidcomp.hub.folders.computes_bfloat16", lambda: False)
        yield


@pytest.fixture(scope="session")
def samples() -> Path:
    return ROOT / "samples"


@pytest.fixture(scope="session")
def nano():
    """The embedded model, loaded once."""
    import vidcomp

    with vidcomp.load("nano", device="cpu") as lm:
        yield lm


@pytest.fixture(autouse=True)
def no_errors_logged(caplog):
    """A test that logs an ERROR fails; the command line's choice of log level does not outlive its test."""
    logging.getLogger("vidcomp").setLevel(logging.NOTSET)
    yield
    logged = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not logged, logged


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=30)


@pytest.fixture
def cli(capfd):
    """Run a command line in this process: exit status, stdout, stderr."""

    def call(*args):
        capfd.readouterr()
        status = run([str(arg) for arg in args])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call
