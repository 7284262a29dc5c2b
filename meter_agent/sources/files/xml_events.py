"""The elements of an XML file, one after the other, without a tree in memory and without entities."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.opening import opened

__all__ = ["Event", "xml_events"]

# "start", local name, the element's href attribute; or "end", local name, its text.
Event = tuple[str, str, str]
_CHUNK = 1 << 16
_DEPTH = 64
_TEXT_MAX = 4096
_SILENT_MAX = 1 << 20  # bytes without a new element: one tag or text that never ends


class _Target:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[Event] = []
        self._texts: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._texts.append("")
        if len(self._texts) > _DEPTH:
            raise SourceError(f"{self._path} nests its elements deeper than any export of readings")
        self.events.append(("start", tag.rpartition("}")[2], attributes.get("href", "")[:_TEXT_MAX]))

    def data(self, text: str) -> None:
        if self._texts and len(self._texts[-1]) < _TEXT_MAX:
            self._texts[-1] += text[:_TEXT_MAX]

    def end(self, tag: str) -> None:
        self.events.append(("end", tag.rpartition("}")[2], self._texts.pop().strip()))

    def close(self) -> None:
        return None


def xml_events(path: Path) -> Iterator[Event]:
    """The file's elements. Raises SourceError, also for a package that is missing."""
    if importlib.util.find_spec("defusedxml") is None:
        raise SourceError(f"{path} is XML, which needs defusedxml: pip install 'gridhe[xml]'")
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import XMLParser

    target = _Target(path)
    parser: Any = XMLParser(target=target, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    silent = 0
    try:
        with opened(path) as file:
            while chunk := file.read(_CHUNK):
                parser.feed(chunk)
                silent = 0 if target.events else silent + len(chunk)
                if silent > _SILENT_MAX:
                    raise SourceError(
                        f"{path} has a tag or a text without an end: it is no export of readings"
                    )
                yield from target.events
                target.events.clear()
            parser.close()
            yield from target.events
    except DefusedXmlException:
        raise SourceError(
            f"{path} defines entities or a document type, which no export of readings does"
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        reason = re.sub(r"[^ -~]", "?", str(error))[:100]
        raise SourceError(f"{path} is no valid XML: {reason}") from None
