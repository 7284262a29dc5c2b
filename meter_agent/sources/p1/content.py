"""The lines of a P1 telegram that a reading needs.

Others are not looked at: they hold impossible time stamps, values without a unit and codes that repeat.
"""

import re
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal

from gridhe.meter_agent.sources.p1.clock import at_s
from gridhe.meter_agent.sources.reading import DeviceReading, Register

__all__ = ["Content", "is_plain", "reading_of"]

# A-B:C.D.E; a sixth group other than 255 is a value of an earlier month.
_LINE = re.compile(r"([01]-[0-9]{1,2}:[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})(?:[.*]255)?(\(.*)")
_DIGIT = re.compile(r"[0-9]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_VALUE = re.compile(r"\(([^()]*)\)")
_ENERGY = re.compile(r"1-[01]:([12])\.8\.([0-9]{1,2})")
_REGISTER = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\*(kWh|Wh|MWh)", re.IGNORECASE)
_POWER = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\*(kW|W|MW)", re.IGNORECASE)
_POWERS_OF_TEN = {"": 0, "K": 3, "M": 6}
_PLAIN_LINE = re.compile(
    r"(?:[0-9]{1,3}-[0-9]{1,3}:[0-9]{1,3}(?:\.[0-9]{1,3}){2}(?:[.*][0-9]{1,3})?)?(?:\([^()]*\))+"
)
_VERSION = re.compile(r"1-[0-9]:0\.2\.8|0-0:96\.1\.4")  # DSMR; e-MUCS (Belgium)
_WITHOUT = ("20", "22", "30")  # DSMR versions without a checksum, if one of their meters names it
_DEVICE = ("0-0:96.1.1", "0-0:42.0.0", "0-0:96.1.0", "1-0:96.1.1", "1-0:96.1.0")


@dataclass(frozen=True, slots=True)
class Content:
    """A telegram's lines. The first of several lines with one code counts."""

    header: str  # without "/"
    lines: list[str]
    values: dict[str, str]  # what stands in parentheses, by code A-B:C.D.E

    @classmethod
    def parse(cls, body: bytes) -> "Content":
        """From a telegram's bytes, from "/" up to and without "!"."""
        header, *lines = _LINE_END.split(body.decode("latin-1"))
        values: dict[str, str] = {}
        for line in lines:
            match = _LINE.fullmatch(line.rstrip())
            if match is not None:
                values.setdefault(match[1], match[2])
        return cls(header[1:].rstrip(), lines, values)

    @property
    def is_due_a_checksum(self) -> bool:
        """Whether meters of this kind send a checksum: versions from 4 on, and all with a line 1.0.0."""
        versions = (self.one(code) for code in self.values if _VERSION.fullmatch(code))
        return "0-0:1.0.0" in self.values or any(version not in _WITHOUT for version in versions)

    def one(self, code: str) -> str | None:
        """The value of a line that has exactly one; None if there is none, or it is empty."""
        values = _VALUE.findall(self.values.get(code, ""))
        return (values[0].strip() or None) if len(values) == 1 else None


def is_plain(content: Content) -> bool:
    """What is checked instead of a checksum: every line is made as it should, no register is there twice, and
    all registers are printed with the same number of digits."""
    written = [line for line in content.lines if line]
    energy = [line.partition("(") for line in written if _ENERGY.match(line)]
    return (
        content.header.isascii()
        and content.header.isprintable()
        and all(line.isascii() and line.isprintable() and _PLAIN_LINE.fullmatch(line) for line in written)
        and len({code for code, _, _ in energy}) == len(energy)
        and len({_DIGIT.sub("0", value) for _, _, value in energy}) <= 1
    )


def reading_of(content: Content, zone: tzinfo | None) -> DeviceReading | str:
    """The reading of a telegram that passed its check, or the reason why it gives none.

    no_register      there is no electricity register (a heat meter), or none with a value
    empty_register   an import register without a value: the sum of the others would be too small
    """
    imported, exported = _registers(content, "1"), _registers(content, "2")
    if imported is None:
        return "empty_register"
    if not imported and not exported:
        return "no_register"
    remarks = [] if exported is not None else ["an export register has no value: no export is read"]
    moment_s = at_s(
        content.one("0-0:1.0.0"),
        content.one("1-0:0.9.2") or content.one("0-0:0.9.2"),
        content.one("1-0:0.9.1") or content.one("0-0:0.9.1"),
        zone,
    )
    if moment_s is None:
        known = any(code in content.values for code in ("0-0:1.0.0", "1-0:0.9.2", "0-0:0.9.2"))
        remarks.append(
            "the meter's clock has no certain offset from UTC: this computer's clock is used"
            + (" (zone=... may help)" if zone is None else "")
            if known
            else "the meter sends no time: this computer's clock is used"
        )
    return DeviceReading(
        imported=imported,
        exported=exported or {},
        power_w=_net_power_w(content),
        device=_device(content),
        at_s=moment_s,
        remarks=tuple(remarks),
    )


def _registers(content: Content, direction: str) -> dict[str, Register] | None:
    """The total if it is sent, else the tariffs; empty without a line; None if a needed one has no value."""
    named: dict[str, str] = {}
    for code in content.values:
        match = _ENERGY.fullmatch(code)
        if match is not None and match[1] == direction:
            named.setdefault(f"{direction}.8.{int(match[2])}", code)
    total = f"{direction}.8.0"
    if total in named:
        named = {total: named[total]}
    found: dict[str, Register] = {}
    for name, code in named.items():
        register = _register(content.one(code))
        if register is None:
            return None
        found[name] = register
    return found


def _register(text: str | None) -> Register | None:
    match = _REGISTER.fullmatch(text or "")
    if match is None:
        return None
    whole, fraction = match[1], match[2] or ""
    power = _POWERS_OF_TEN[match[3].upper().removesuffix("WH")]
    return Register(
        wh=Decimal(whole + fraction).scaleb(power - len(fraction)),
        step_wh=Decimal(1).scaleb(power - len(fraction)),
        # Digits that are not padded with zeros to a fixed width do not say where the register ends.
        modulus_wh=Decimal(1).scaleb(power + len(whole)) if whole[0] == "0" and len(whole) > 1 else None,
    )


def _net_power_w(content: Content) -> Decimal | None:
    taken, given = (
        _power_w(content.one(f"1-0:{direction}.7.0") or content.one(f"1-1:{direction}.7.0"))
        for direction in "12"
    )
    if taken is None and given is None:
        return None
    return (taken or Decimal(0)) - (given or Decimal(0))


def _power_w(text: str | None) -> Decimal | None:
    match = _POWER.fullmatch(text or "")
    return Decimal(match[1]).scaleb(_POWERS_OF_TEN[match[2].upper().removesuffix("W")]) if match else None


def _device(content: Content) -> str | None:
    """The equipment id. Hex digits of printable characters are decoded: so it is printed on the meter."""
    text = next(filter(None, map(content.one, _DEVICE)), None)
    if text is None:
        return None
    try:
        plain = bytes.fromhex(text).decode("ascii")
    except ValueError:
        return text
    return plain if plain.isalnum() else text
