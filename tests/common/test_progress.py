"""Progress bars are drawn on a terminal only."""

import io

from c2s.common import progress


def test_quiet_where_there_is_no_terminal(capsys):
    with progress.progress_bar("ranking", 10) as advance:
        for _ in range(10):
            advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ""


def test_a_terminal_shows_how_much_is_done(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.progress_bar("ranking", 10, unit="cells") as advance:
        advance(4)
        advance(6)
    assert "ranking" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
    assert "cells/s" in terminal.getvalue()
