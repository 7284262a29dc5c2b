"""Cuts a stream of bytes into P1 telegrams: from "/" to "!" at the start of a line, with up to 4 hex digits.

A "/" at the start of a line always begins a telegram anew: the one before it was cut off. Bit 7 is left out
of the search for these marks, because a line of 7E1 characters that is read as 8N1 has the parity there.
"""

import re
from dataclasses import dataclass

__all__ = ["MAX_BYTES", "SEVEN_BITS", "Frame", "Framer"]

MAX_BYTES = 16_384  # of a telegram; a Belgian one with 13 months of peaks and a text message has 5,000
SEVEN_BITS = bytes(byte & 0x7F for byte in range(256))  # for bytes.translate
_MARK = re.compile(rb"[\r\n][/!]")
# Four digits are an end without the line end behind them: some bridges cut it off.
_END = re.compile(rb"!(?:([0-9A-Fa-f]{4})|([0-9A-Fa-f]{0,3})(?:[ \t]{0,8}\r?\n|\r?(?=/)))")
_MAYBE_END = re.compile(rb"!([0-9A-Fa-f]{0,3})[ \t]{0,8}\r?")
_NOISE_BYTES = 256
_HEADER = re.compile(rb"/(?:[A-Za-z]{3}|[A-Za-z]{0,2}\Z)")  # or its beginning at the end of the bytes
_HEADER_LINE = re.compile(rb"/[A-Za-z]{3}[ -~]{0,80}\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A telegram as it arrived: from "/" up to and without "!", and the digits of its checksum."""

    raw: bytes
    digits: bytes  # none to four


class Framer:
    """Takes bytes in pieces of any size. Holds at most MAX_BYTES between two of them."""

    def __init__(self) -> None:
        self._raw = b""  # from "/" on
        self._searched = 0  # no mark begins before this place
        self._headerless = 0  # bytes since the last header
        self._tailless = 0  # headers since the last end

    @property
    def waiting_for(self) -> str | None:
        """The mark that is missing, if it should have come by now."""
        if self._tailless > 1 or (self._tailless and len(self._raw) > MAX_BYTES // 2):
            return "a telegram's end"
        if _HEADER_LINE.match(self._raw.translate(SEVEN_BITS)):
            return None
        return "a telegram's start" if self._headerless + len(self._raw) > _NOISE_BYTES else None

    def feed(self, data: bytes) -> list[Frame | str]:
        """Frames that are complete, and in between the reasons of telegrams that were dropped."""
        raw = self._raw + data
        text = raw.translate(SEVEN_BITS)
        out: list[Frame | str] = []
        begin, searched = 0, self._searched
        while True:
            slash = text.find(b"/", begin) if not text.startswith(b"/", begin) else begin
            if slash != begin:
                slash = slash if slash >= 0 else len(text)
                self._headerless += slash - begin
                begin = searched = slash
            if begin == len(text):
                break
            last = begin + MAX_BYTES
            mark = _MARK.search(text, searched, last + 1)
            if mark is None:
                searched = max(begin, min(len(text), last + 1) - 1)
                if len(text) <= last:
                    break
                out.append("too_long")
                after = _last_header(text, begin + 1, last)
                self._note(text, begin, after)
                begin = searched = after
                continue
            at = mark.end() - 1
            if text[at] == ord("/"):
                self._note(text, begin, at)
                out.append("cut_off")
                begin = searched = at
                continue
            end = _END.match(text, at)
            if end is not None:
                self._note(text, begin, at, has_end=True)
                out.append(Frame(raw=raw[begin:at], digits=end[1] or end[2] or b""))
                begin = searched = end.end()
            elif _MAYBE_END.fullmatch(text, at):
                searched = at - 1
                break
            else:
                self._note(text, begin, at)
                out.append("framing")
                begin = searched = at + 1
        self._raw, self._searched = raw[begin:], searched - begin
        return out

    def pause(self) -> list[Frame | str]:
        """The line is silent: a telegram without a line end after "!" is complete, another is cut off."""
        raw, self._raw = self._raw, b""
        text = raw.translate(SEVEN_BITS)
        mark = _MARK.search(text, self._searched)
        self._searched = 0
        if not raw:
            return []
        end = _MAYBE_END.fullmatch(text, mark.end() - 1) if mark else None
        if mark and end:
            self._note(text, 0, len(text), has_end=True)
            return [Frame(raw=raw[: mark.end() - 1], digits=end[1])]
        self._note(text, 0, len(text))
        return ["cut_off"]

    def reset(self) -> list[str]:
        """Drop an unfinished telegram. Returns the reason, if there was one."""
        unfinished, self._raw, self._searched = bool(self._raw), b"", 0
        return ["cut_off"] if unfinished else []

    def passed(self) -> None:
        """A telegram passed its check: the line is as it should be, whatever stood before."""
        self._headerless = self._tailless = 0

    def _note(self, text: bytes, begin: int, end: int, *, has_end: bool = False) -> None:
        """What text[begin:end] shows of the line."""
        if _HEADER_LINE.match(text, begin, end):
            self._headerless = 0
            self._tailless = 0 if has_end else self._tailless + 1
        else:
            self._headerless += end - begin
            if self._headerless > _NOISE_BYTES:
                self._tailless = 0  # noise may look like a header


def _last_header(text: bytes, begin: int, end: int) -> int:
    """The place of the last header in text[begin:end], else `end`: noise may have a "/" of its own."""
    return max((each.start() for each in _HEADER.finditer(text, begin, end)), default=end)
