"""The enrolled meters, aggregators and fleet user, in one SQLite file of the authority's home.

The file holds no secret. Broker passwords derive from the vault's broker secret, the user's name and a
generation that a renewal raises; ingest keys derive from the ingest secret and the name
(`gridhe.wire.ingest`). So repeating an enrolment writes the same credential: after a crash, or if a
credential file is lost, enrol the meter again.

A meter that spoilt a total is excluded: it stays enrolled, and the roster leaves it out. The ledger decides
which meters are excluded (`gridhe.keyring.release.stops`); table `excluded` is a copy for the roster. Table
`resumes` has the names that `gridhe-keyring resume` was called with, until the release service, which has
the ledger locked, takes them up.
"""

import base64
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gridhe.base.sqlite import SqliteDatabase
from gridhe.errors import ConfigError
from gridhe.keyring.home.limits import Limit
from gridhe.plan.names import ROOT_GROUP, ancestors, check_group, check_meter, check_name
from gridhe.wire.roster import FormerPlace, RosterEntry

__all__ = ["EnrolledAggregator", "EnrolledMeter", "Enrolment", "derive_password", "read_meters_csv"]

_PASSWORD_BYTES = 24  # 192 bits, 32 characters
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meters (
    name TEXT PRIMARY KEY, grp TEXT NOT NULL, from_s INTEGER NOT NULL, generation INTEGER NOT NULL,
    fleet INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aggregators (
    name TEXT PRIMARY KEY, verify_key BLOB NOT NULL, generation INTEGER NOT NULL, revoked INTEGER NOT NULL
    DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    meter TEXT NOT NULL, grp TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (grp, meter)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS former_keys (
    name TEXT NOT NULL, verify_key BLOB NOT NULL, PRIMARY KEY (name, verify_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS excluded (meter TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS resumes (name TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('roster_version', 1);
INSERT OR IGNORE INTO meta VALUES ('fleet_generation', 1);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledMeter:
    """A meter, counted in windows that start at `from_s` (UTC epoch s) or later.

    `fleet`: user `fleet` may send for it too.
    """

    name: str
    group: str
    from_s: int = 0
    generation: int = 1
    fleet: bool = False
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledAggregator:
    """An aggregator and the key that verifies its totals. Totals of a revoked aggregator are refused."""

    name: str
    verify_key: bytes
    generation: int = 1
    revoked: bool = False


def derive_password(broker_secret: bytes, user: str, generation: int) -> str:
    """The broker password of a user: 192 bits, HKDF-SHA256 (RFC 5869) of the vault's broker secret."""
    info = f"gridhe/v1/password/{user}/{generation}".encode()
    derived = HKDF(algorithm=SHA256(), length=_PASSWORD_BYTES, salt=None, info=info).derive(broker_secret)
    return base64.urlsafe_b64encode(derived).decode()


def read_meters_csv(path: Path) -> list[tuple[str, str]]:
    """(meter, group) of each row of a CSV file with the columns `meter` and `group`. Raises ConfigError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if not {"meter", "group"} <= set(header):
                raise ConfigError(f"{path}: the first line must name the columns meter and group")
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise ConfigError(f"{path}: the column {twice[0]!r} is there twice; remove one of the two")
            meters = []
            for row in rows:
                if row and len(row) != len(header):
                    raise ConfigError(
                        f"{path}, line {rows.line_num} has {len(row)} cells, not {len(header)}; correct it"
                    )
                if row:
                    cells = dict(zip(header, row, strict=True))
                    meters.append((cells["meter"].strip(), cells["group"].strip()))
            return meters
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a CSV file in UTF-8: {error}") from None


class Enrolment:
    """The enrolment database. Raises StateError if it is damaged or the disk fails."""

    def __init__(self, path: Path) -> None:
        self._db = SqliteDatabase(path, _SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # -- reading ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The roster's version: every change raises it, also a change of aggregators."""
        [(version,)] = self._db.query("SELECT value FROM meta WHERE name = 'roster_version'")
        return int(version)

    @property
    def fleet_generation(self) -> int:
        """The generation of the password of user `fleet`: raised when a fleet is renewed."""
        [(generation,)] = self._db.query("SELECT value FROM meta WHERE name = 'fleet_generation'")
        return int(generation)

    def meters(self, *, revoked: bool = False) -> list[EnrolledMeter]:
        """All meters by name; revoked ones only if asked for."""
        query = "SELECT name, grp, from_s, generation, fleet, revoked FROM meters ORDER BY name"
        rows = self._db.query(query)
        return [
            EnrolledMeter(
                name=name,
                group=group,
                from_s=from_s,
                generation=generation,
                fleet=bool(fleet),
                revoked=bool(gone),
            )
            for name, group, from_s, generation, fleet, gone in rows
            if revoked or not gone
        ]

    def aggregators(self, *, revoked: bool = False) -> list[EnrolledAggregator]:
        """All aggregators by name; revoked ones only if asked for."""
        query = "SELECT name, verify_key, generation, revoked FROM aggregators ORDER BY name"
        rows = self._db.query(query)
        return [
            EnrolledAggregator(name=name, verify_key=key, generation=generation, revoked=bool(gone))
            for name, key, generation, gone in rows
            if revoked or not gone
        ]

    def former_keys(self) -> dict[str, list[bytes]]:
        """The verify keys that aggregators had before they were enrolled again, by name.

        Totals that arrived under such a key stay valid. A revoked aggregator has no former keys, because
        somebody else may have its key.
        """
        keys: dict[str, list[bytes]] = {}
        for name, key in self._db.query("SELECT name, verify_key FROM former_keys"):
            keys.setdefault(name, []).append(key)
        return keys

    def excluded(self) -> frozenset[str]:
        """The names of the excluded meters."""
        return frozenset(name for (name,) in self._db.query("SELECT meter FROM excluded"))

    def entries(self) -> list[RosterEntry]:
        """The roster's entries: all meters that are not excluded."""
        excluded = self.excluded()
        return [
            RosterEntry(meter.name, meter.group, meter.from_s)
            for meter in self.meters()
            if meter.name not in excluded
        ]

    def enrolled(self, group: str, start_s: int) -> int:
        """How many meters the roster has in this group for a window that starts then (UTC epoch s).

        A wider group has the meters of all groups inside it.
        """
        query = (
            "SELECT COUNT(*) FROM meters"
            " WHERE from_s <= ? AND NOT revoked AND name NOT IN (SELECT meter FROM excluded)"
        )
        if group == ROOT_GROUP:
            [(count,)] = self._db.query(query, start_s)
        else:
            inside = " AND (grp = ? OR substr(grp, 1, length(?)) = ?)"
            [(count,)] = self._db.query(query + inside, start_s, group, group + "/", group + "/")
        return int(count)

    def former_places(self) -> list[FormerPlace]:
        """The former meters of each group: moved to another group, revoked, or excluded."""
        query = (
            "SELECT meter, places.grp FROM places LEFT JOIN meters"
            " ON name = meter AND meters.grp = places.grp AND NOT revoked"
            " AND name NOT IN (SELECT meter FROM excluded) WHERE name IS NULL"
        )
        return [FormerPlace(meter, group) for meter, group in self._db.query(query)]

    def group_meters(self, group: str, version: int) -> list[str]:
        """All meters that the roster of this version names in the group, now or formerly, in order of name.

        The bitmaps of member lists refer to this list (gridhe.wire.total).
        """
        query = "SELECT meter FROM places WHERE grp = ? AND version <= ? ORDER BY meter"
        return [meter for (meter,) in self._db.query(query, group, version)]

    def resumes(self) -> list[str]:
        """The names that wait to be resumed."""
        return [name for (name,) in self._db.query("SELECT name FROM resumes ORDER BY name")]

    # -- changing --------------------------------------------------------------------------------

    def raise_version(self) -> None:
        """Raise the roster's version because its plans changed, so that aggregators load it again."""
        with self._change():
            pass

    def enrol_meters(
        self,
        wanted: Iterable[tuple[str, str]],
        *,
        from_s: int = 0,
        fleet: bool = False,
        move: bool = False,
        renew: bool = False,
        limits: Sequence[Limit] = (),
    ) -> list[EnrolledMeter]:
        """Enrol (meter, group) pairs, all or none, and return them as enrolled.

        A meter that is already enrolled stays as it is, with three exceptions: `renew` gives it a new
        password (with `fleet` also user `fleet`), `fleet` can be set and is never removed, and `move` allows
        another group, from `from_s` (without `move` another group is an error). A revoked meter that is
        enrolled again gets a new password. Raises ConfigError, also if a group would exceed one of `limits`.
        """
        known = {meter.name: meter for meter in self.meters(revoked=True)}
        taken = {aggregator.name for aggregator in self.aggregators(revoked=True)}
        changed: dict[str, EnrolledMeter] = {}
        for name, group in wanted:
            check_meter(name)
            check_group(group)
            if name in changed:
                raise ConfigError(f"meter {name!r} is named twice")
            if name in taken:
                raise ConfigError(f"{name!r} is an aggregator; their receipts would share a topic")
            before = known.get(name)
            if before is None:
                changed[name] = EnrolledMeter(name=name, group=group, from_s=from_s, fleet=fleet)
                continue
            if before.group != group and not (move or before.revoked):
                raise ConfigError(
                    f"meter {name!r} is enrolled in {before.group}; to move it to {group} add --move"
                )
            stays = before.group == group and not before.revoked
            changed[name] = EnrolledMeter(
                name=name,
                group=group,
                from_s=before.from_s if stays else from_s,
                generation=before.generation + (renew or before.revoked),
                fleet=fleet or before.fleet,
            )
        if not changed:
            raise ConfigError("no meters to enrol: give names, --count or --from-csv")
        _check_groups({**known, **changed})
        _check_limits(limits, known, {**known, **changed})
        with self._change():
            self._db.write_many(
                "INSERT OR REPLACE INTO meters (name, grp, from_s, generation, fleet) VALUES (?, ?, ?, ?, ?)",
                [(m.name, m.group, m.from_s, m.generation, m.fleet) for m in changed.values()],
            )
            # The first roster that names a meter in a group; `_change` raises the version at its end.
            version = self.version + 1
            self._db.write_many(
                "INSERT OR IGNORE INTO places VALUES (?, ?, ?)",
                [(m.name, m.group, version) for m in changed.values()],
            )
            if fleet and renew:
                self._db.write("UPDATE meta SET value = value + 1 WHERE name = 'fleet_generation'")
        return list(changed.values())

    def enrol_aggregator(self, name: str, verify_key: bytes) -> EnrolledAggregator:
        """Enrol an aggregator; enrolling it again changes its key and its password. Raises ConfigError."""
        check_name(name, "aggregator")
        if any(meter.name == name for meter in self.meters(revoked=True)):
            raise ConfigError(f"{name!r} is a meter; their receipts would share a topic")
        before = {aggregator.name: aggregator for aggregator in self.aggregators(revoked=True)}.get(name)
        generation = 1 if before is None else before.generation + 1
        with self._change():
            if before is not None and not before.revoked:
                self._db.write("INSERT OR IGNORE INTO former_keys VALUES (?, ?)", name, before.verify_key)
            self._db.write(
                "INSERT OR REPLACE INTO aggregators (name, verify_key, generation) VALUES (?, ?, ?)",
                name,
                verify_key,
                generation,
            )
        return EnrolledAggregator(name=name, verify_key=verify_key, generation=generation)

    def revoke(self, names: Iterable[str]) -> int:
        """Revoke meters or aggregators, all or none; return how many. Raises ConfigError: not enrolled."""
        wanted = list(names)
        meters = {meter.name for meter in self.meters()}
        unknown = [name for name in wanted if name not in meters | {a.name for a in self.aggregators()}]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not enrolled")
        with self._change():
            for name in wanted:
                table = "meters" if name in meters else "aggregators"
                self._db.write(f"UPDATE {table} SET revoked = 1 WHERE name = ?", name)  # noqa: S608
                self._db.write("DELETE FROM former_keys WHERE name = ?", name)
        return len(wanted)

    def exclude(self, meters: Iterable[str], *, returned: Mapping[str, int]) -> bool:
        """Make these the excluded meters; return whether that changed the roster.

        A meter that returns counts in windows that start at `returned[meter]` (UTC epoch seconds) or
        later, because the batches that it sealed before may have the fault.
        """
        wanted, before = frozenset(meters), self.excluded()
        if wanted == before:
            return False
        with self._change():
            self._db.write_many("INSERT INTO excluded VALUES (?)", [(name,) for name in wanted - before])
            for name in before - wanted:
                self._db.write("DELETE FROM excluded WHERE meter = ?", name)
                self._db.write(
                    "UPDATE meters SET from_s = MAX(from_s, ?) WHERE name = ?", returned.get(name, 0), name
                )
        return True

    def ask_resume(self, names: Iterable[str]) -> None:
        """Note names to be resumed by the release service."""
        with self._db.transaction():
            self._db.write_many("INSERT OR IGNORE INTO resumes VALUES (?)", [(name,) for name in names])

    def forget_resumes(self, names: Iterable[str]) -> None:
        """Delete names that were taken up."""
        with self._db.transaction():
            self._db.write_many("DELETE FROM resumes WHERE name = ?", [(name,) for name in names])

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction that also raises the roster's version."""
        with self._db.transaction():
            yield
            self._db.write("UPDATE meta SET value = value + 1 WHERE name = 'roster_version'")


def _check_limits(
    limits: Sequence[Limit], before: Mapping[str, EnrolledMeter], after: Mapping[str, EnrolledMeter]
) -> None:
    """Raise ConfigError if a group would have more meters than a plan sums."""
    for limit in limits:
        excess = limit.excess(
            *(
                [(meter.group, meter.from_s) for meter in meters.values() if not meter.revoked]
                for meters in (after, before)
            )
        )
        if excess is not None:
            raise ConfigError(
                f"{excess.group} would have {excess.meters} meters, and {limit.plan} sums at most "
                f"{excess.limit} ({excess.settings[0]}); enrol fewer, spread them over more groups, or "
                f"rotate with {excess.flags} and enrol them --from the new plan's first window"
            )


def _check_groups(meters: Mapping[str, EnrolledMeter]) -> None:
    """Raise ConfigError if a group would hold both meters and narrower groups."""
    leaves = {meter.group for meter in meters.values() if not meter.revoked}
    for leaf in sorted(leaves):
        for wider in ancestors(leaf):
            if wider in leaves:
                raise ConfigError(
                    f"group {wider} has meters of its own and also contains group {leaf}; "
                    f"move its meters to a group such as {wider}/rest"
                )
