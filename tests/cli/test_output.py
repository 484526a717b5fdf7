"""Figures as people read them, and bars only for what takes long."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from memoryd.cli import output
from memoryd.cli.options import parse_label, parse_ttl


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (9 << 20, "9.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes(nbytes, text):
    assert output.size(nbytes) == text


def test_ages():
    now = datetime.now(UTC)
    assert output.since(None) == "-"
    assert output.since(now - timedelta(days=2, hours=3)) == "2 d ago"
    assert output.since(now - timedelta(hours=3, minutes=5)) == "3 h ago"
    assert output.since(now + timedelta(seconds=5)) == "0 s ago"


def test_durations_and_labels():
    assert parse_ttl("90m") == timedelta(minutes=90)
    assert parse_label("a=b=c") == ("a", "b=c")
    for text in ("", "7", "7w", "-1d"):
        with pytest.raises(typer.BadParameter, match="12h"):
            parse_ttl(text)
    for text in ("a", "=b"):
        with pytest.raises(typer.BadParameter, match="key=value"):
            parse_label(text)


@pytest.mark.parametrize(
    ("after", "terminal", "shown"),
    [(0.0, True, True), (0.0, False, False), (3600.0, True, False)],
)
def test_a_bar_appears_only_for_long_work_on_a_terminal(monkeypatch, after, terminal, shown):
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    monkeypatch.setattr(output, "SHOW_PROGRESS_AFTER", after)
    with output.late_bar("work", in_bytes=True) as bar:
        bar.update(1, 2)
        assert bar._progress.live.is_started is shown
