"""A small authority with meters, and totals of their batches that one of them or the aggregator spoils."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from gridhe.config.settings import PlanSettings, QuantitySettings, Settings
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.home.vault import Kdf
from gridhe.meter_agent.sealing import Encryptor
from gridhe.plan.plan import TAGS
from gridhe.wire.credential import DeviceCredential, load_aggregator, load_fleet
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import Piece
from gridhe_testing.totals import Batch, folded, make_batch, member_list, signed_total

__all__ = ["FAULTS", "PASSPHRASE", "SpoiltGrid", "small_plan"]

PASSPHRASE = "correct horse battery"
FAULTS = ("left_out", "without_guards", "other_window", "repeated", "rogue")


def small_plan(**release: float) -> Settings:
    """A plan that is quick to compute with: windows of an hour, four intervals."""
    return Settings.model_validate(
        {
            "plan": PlanSettings(
                window_s=3_600,
                interval_s=900,
                largest_group=100,
                largest_rollup=100,
                quantities=(QuantitySettings(largest=1_000, bins=4),),
                minimum_meters=5,
                small_groups="accepted",
            ),
            "release": release,
        }
    )


class SpoiltGrid:
    """A home with aggregators and groups of meters, named GROUP-NUMBER with `-` for `/`."""

    def __init__(
        self,
        folder: Path,
        groups: Mapping[str, int],
        *,
        settings: Settings | None = None,
        aggregators: Iterable[str] = ("agg1",),
    ) -> None:
        """`groups`: the number of meters by leaf group."""
        self.settings = settings or small_plan()
        self.authority = AuthorityHome.init(
            folder / "authority", self.settings, PASSPHRASE.encode(), kdf=Kdf(n=2**14)
        )
        self.signers = {
            name: SigningKey.from_private_bytes(
                load_aggregator(self.authority.enrol_aggregator(name, self.settings)).signing_key
            )
            for name in aggregators
        }
        wanted = [
            (f"{group.replace('/', '-')}-{number:03}", group)
            for group, count in groups.items()
            for number in range(count)
        ]
        file = folder / "fleet.json"
        self.authority.enrol_meters(wanted, self.settings, fleet_file=file)
        self.devices: dict[str, DeviceCredential] = {
            device.meter: device for device in load_fleet(file).devices
        }
        self.plan = self.authority.bundle().plan
        self._made: dict[tuple[str, int, int], tuple[int, bytes]] = {}  # by group, window and part
        self.encryptor = Encryptor(self.authority.bundle())

    def meters(self, group: str) -> list[str]:
        """The meters that were enrolled in this leaf group at first, by name."""
        return sorted(name for name, device in self.devices.items() if device.group == group)

    def batch(self, meter: str, window: int, *, fault: str = "") -> Batch:
        """A meter's batch of random readings, the same at every call; `fault` is one of FAULTS or empty."""
        device, plan = self.devices[meter], self.plan
        rng = np.random.default_rng([window, *meter.encode()])
        readings = {"import_wh": rng.integers(0, 1_001, plan.intervals)}
        made = make_batch(self.encryptor, device, window - (fault == "other_window"), readings)
        slots = made.slots.copy()
        if fault == "without_guards":
            slots[plan.layout.used :] = 0
        elif fault == "rogue":
            slots[plan.layout.used : -TAGS] += rng.integers(1, 1_000, plan.guards - TAGS)
        elif fault != "other_window":
            return made
        return replace(made, window=window, slots=slots, ciphertext=self.encryptor.encrypt(slots))

    def total(
        self,
        group: str,
        window: int,
        *,
        fault: str = "",
        at: int = 0,
        members: Iterable[str] | None = None,
        unnamed: Iterable[str] = (),
        part: int = 0,
        aggregator: str = "agg1",
    ) -> bytes:
        """The signed total of a leaf group's members (default: all), spoilt by or through the `at`-th.

        The batches of `unnamed` meters are in it too, and not on its list.
        """
        names = sorted(self.meters(group) if members is None else members)
        batches = [
            self.batch(name, window, fault=fault if index == at else "") for index, name in enumerate(names)
        ]
        ciphertexts = [each.ciphertext for each in batches]
        if fault == "left_out":
            del ciphertexts[at]
        elif fault == "repeated":
            ciphertexts += [ciphertexts[at]] * 4
        ciphertexts += [self.batch(name, window).ciphertext for name in unnamed]
        return self._signed([self._piece(group, part, batches)], ciphertexts, group, window, part, aggregator)

    def rollup(
        self,
        group: str,
        window: int,
        *,
        opened: Iterable[tuple[str, int]] = (),
        listed: Iterable[tuple[str, int, Iterable[str]]] = (),
        aggregator: str = "agg1",
    ) -> bytes:
        """The signed total of a wider group.

        `opened`: (group, part) of totals that `total` made before; `listed`: (group, part, members) of parts
        that bring their list.
        """
        pieces, ciphertexts = [], []
        for leaf, part in opened:
            members, total = self._made[leaf, window, part]
            pieces.append(Piece(leaf, part, members))
            ciphertexts.append(total)
        for leaf, part, names in listed:
            batches = [self.batch(name, window) for name in sorted(names)]
            pieces.append(self._piece(leaf, part, batches))
            ciphertexts += [each.ciphertext for each in batches]
        return self._signed(pieces, ciphertexts, group, window, 0, aggregator)

    def _piece(self, group: str, part: int, batches: Sequence[Batch]) -> Piece:
        # A connection of its own: the home may be used by another process in between.
        with closing(Enrolment(self.authority.paths.enrolment)) as enrolment:
            meters = enrolment.group_meters(group, enrolment.version)
        listed = member_list(meters, {each.meter: each.proof for each in batches})
        return Piece(group, part, len(batches), listed)

    def _signed(
        self,
        pieces: Sequence[Piece],
        ciphertexts: Iterable[bytes],
        group: str,
        window: int,
        part: int,
        aggregator: str,
    ) -> bytes:
        ciphertext = folded(self.plan, ciphertexts)
        self._made[group, window, part] = sum(piece.meters for piece in pieces), ciphertext
        with closing(Enrolment(self.authority.paths.enrolment)) as enrolment:
            version = enrolment.version
        return signed_total(
            self.plan,
            self.signers[aggregator],
            pieces,
            ciphertext,
            group=group,
            window=window,
            part=part,
            roster=version,
            aggregator=aggregator,
        )
