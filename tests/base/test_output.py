"""What is printed cannot drive a terminal, and streams that fail end a command in one line."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.base.output import OutputClosed, OutputError, echo, printable, standard_streams


@given(st.text())
def test_repro_no_text_drives_a_terminal_and_plain_text_stays(text: str) -> None:
    shown = printable(text)
    assert all(each.isprintable() or each in "\n\t" for each in shown)
    if all(each.isprintable() or each in "\n\t" for each in text):
        assert shown == text
    assert printable(text, keep="").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x9b31m", "\\x9b31m"),
        ("back\rforth", "back\\rforth"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
        ("zähler 電", "zähler 電"),
        ("two\nlines\tand", "two\nlines\tand"),
    ],
)
def test_control_characters_are_shown_as_escapes(
    capsys: pytest.CaptureFixture[str], text: str, shown: str
) -> None:
    echo(text)
    echo(text, err=True)
    assert capsys.readouterr() == (f"{shown}\n", f"{shown}\n")


def test_a_failure_is_reported_again_after_the_first_report_was_swallowed(tmp_path: Path) -> None:
    program = """
import sys
from gridhe.base.output import standard_streams
with standard_streams():
    for attempt in range(3):
        try:
            sys.stdout.write("x" * 100_000)
            sys.stdout.flush()
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
"""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines() == 3 * [
        "OutputError cannot write to standard output: No space left on device"
    ]


def test_the_next_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    program = """
import os
from gridhe.base.output import standard_streams
with standard_streams():
    print(5)
    handle = os.open("state", os.O_CREAT | os.O_RDWR)
    assert handle > 2, handle
    os.write(1, bytes(5))
"""
    script = f"\"$0\" -c '{program}' <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", script, sys.executable], cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "state").read_bytes() == b""


def test_streams_are_as_before_afterwards() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    with standard_streams():
        assert sys.stdout is not before[1]
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    assert issubclass(OutputError, OSError) is False
    assert OutputClosed.exit_code == 141
    assert OutputError.exit_code == 6


def test_an_encoding_that_lacks_a_character_shows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with standard_streams():
        echo("zähler")
    assert raw.getvalue() == b"z\\xe4hler\n"
