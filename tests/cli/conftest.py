"""The command line in this process."""

from __future__ import annotations

import sys
import warnings

import pytest

from c2s.cli import main as cli


@pytest.fixture
def c2s(monkeypatch, capsys, tmp_path):
    """Return a function that runs `c2s ARGS` and gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("C2S_MODEL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["c2s", *map(str, args)])
        code = 0
        with warnings.catch_warnings():
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run
