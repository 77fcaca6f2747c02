"""Shared fixtures: where the project's shared material lies, replicas of hub checkpoints, a generated clip."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not eat the cores they wait for
import torch
from clips import make_clip

from vidcomp.cli.app import run

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
torch.set_num_threads(2)


def require_shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name}, which is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def replicas(tmp_path_factory):
    """A function: family name -> folder of a tiny checkpoint with the hub's file layout."""
    script = require_shared("replicas/make_replicas.py")
    spec = importlib.util.spec_from_file_location("make_replicas", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_replicas"] = module
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("replicas")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            module.make(root, [name], verbose=False)
        return root / name

    return folder


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
