"""The makes of meters that push, as data: how to tell them, and what their telegrams leave out.

A telegram without scalers does not say what a step of a register is worth. For most makes it is 1 Wh by
agreement; Kamstrup's depends on the country (10 Wh in Norway and Denmark, 1 Wh in Sweden), so the zone of the
settings decides it, or setting `register_wh`. An unknown make without scalers has to be told `register_wh`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from gridhe.meter_agent.sources.han.clock import Season

__all__ = ["FIXED_LISTS", "GENERIC", "PROFILES", "STANDARD_TIME_ZONES", "FixedList", "Profile", "profile_of"]

_WH = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One make."""

    name: str
    texts: tuple[bytes, ...] = ()  # a list's name or a meter's id starts with one of these
    title: bytes | None = None  # the maker's code at the start of its system title
    addresses: bytes | None = None  # of its HDLC frames
    form: str | None = None  # of its lists: "untagged" (`axdr`) or "descriptors" (`lists`)
    season: Season = None  # its clock in summer, where the deviation does not say
    register_wh: Decimal | None = None  # of one step, where the telegram has no scaler
    register_wh_in: Mapping[str, Decimal] = field(default_factory=dict)  # the same, by zone

    def step_wh(self, zone: str | None) -> Decimal | None:
        """Wh of one step of a register without scaler; None: not known."""
        return self.register_wh_in.get(zone or "", self.register_wh)


GENERIC = Profile(name="generic")

PROFILES = (
    Profile(name="kaifa", texts=(b"KFM", b"1KFM", b"MA304", b"MA309"), title=b"KFM", register_wh=_WH),
    Profile(name="aidon", texts=(b"AIDON",), title=b"ADN", season="standard"),
    Profile(
        name="kamstrup",
        texts=(b"Kamstrup",),
        title=b"KAM",
        season="standard",
        register_wh_in={
            "Europe/Oslo": Decimal(10),
            "Europe/Copenhagen": Decimal(10),
            "Europe/Stockholm": _WH,
        },
    ),
    Profile(
        name="landis",
        texts=(b"EMBRIQ", b"LGZ", b"ZMF"),
        title=b"LGZ",
        addresses=b"\xce\xff\x03",
        register_wh=_WH,
    ),
    Profile(name="iskra", texts=(b"ISK", b"1ISK"), title=b"ISK", register_wh=_WH),
    Profile(name="sagemcom", texts=(b"SAG",), title=b"SAG", form="untagged", register_wh=_WH),
    Profile(name="push-setup", form="descriptors", register_wh=_WH),
    GENERIC,
)

# Meters here stay on normal time in summer, whatever their make.
STANDARD_TIME_ZONES = frozenset({"Europe/Stockholm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedList:
    """A list without OBIS codes: the position is the meaning. "" is a text without a code."""

    profile: str
    codes: tuple[str, ...]


_IDS = ("", "0-0:96.1.0", "0-0:96.1.7")
_POWERS = ("1-0:1.7.0", "1-0:2.7.0", "1-0:3.7.0", "1-0:4.7.0")
_ONE_PHASE = ("1-0:31.7.0", "1-0:32.7.0")
_THREE_PHASES = ("1-0:31.7.0", "1-0:51.7.0", "1-0:71.7.0", "1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0")
_HOURLY = ("0-0:1.0.0", "1-0:1.8.0", "1-0:2.8.0", "1-0:3.8.0", "1-0:4.8.0")

# Kaifa in Norway: every 2 s, every 10 s (one or three phases), every hour.
FIXED_LISTS = {
    len(codes): FixedList(profile="kaifa", codes=codes)
    for codes in (
        _POWERS[:1],
        _IDS + _POWERS + _ONE_PHASE,
        _IDS + _POWERS + _THREE_PHASES,
        _IDS + _POWERS + _ONE_PHASE + _HOURLY,
        _IDS + _POWERS + _THREE_PHASES + _HOURLY,
    )
}


def profile_of(
    *, texts: Iterable[bytes], title: bytes | None, addresses: bytes, form: str | None
) -> Profile | None:
    """The make that a telegram shows, by the surest mark; None if it shows none."""
    found = tuple(texts)
    marks: tuple[Callable[[Profile], bool], ...] = (
        lambda each: bool(each.texts) and any(text.startswith(each.texts) for text in found),
        lambda each: each.title is not None and title is not None and title.startswith(each.title),
        lambda each: each.addresses is not None and each.addresses == addresses,
        lambda each: each.form is not None and each.form == form,
    )
    return next((each for shows in marks for each in PROFILES if shows(each)), None)
