"""The authority's home with its vault open: plans, keys, enrolment, and the broker's files."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import tenseal as ts

from gridhe.base.files import make_private_dir, write_private
from gridhe.broker.client.url import BrokerUrl
from gridhe.broker.server.mosquitto_config import (
    AUTHORITY_USER,
    FLEET_USER,
    OPERATOR_USER,
    ServerTls,
    aggregator_user,
    write_server_files,
)
from gridhe.broker.server.users import broker_owner
from gridhe.config.settings import BrokerSettings, Settings
from gridhe.errors import ConfigError, PlanError, StateError, VaultError
from gridhe.keyring.home.enrolment import EnrolledMeter, Enrolment, derive_password
from gridhe.keyring.home.limits import Limit, limits_in_force
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.rotation import check_retirement, read_counted
from gridhe.keyring.home.vault import Kdf, Secrets, Vault, check_private_dir
from gridhe.plan.guards import GUARD_KEY_BYTES, guard_key, home_key
from gridhe.plan.planner import Choice, choose, make_plan
from gridhe.plan.succession import check_start, notice_start_s
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.credential import AggregatorCredential, DeviceCredential, FleetCredential
from gridhe.wire.ingest import derive_key, new_ingest_secret
from gridhe.wire.roster import Roster, RosterEntry, RosterPlan
from gridhe.wire.signing import SigningKey, authority_id

__all__ = ["AuthorityHome"]

_PAYLOAD_MINIMUM = 24 << 20  # generated mosquitto.conf: room for totals' headers and larger rosters
_SAVERS = 16
_AUTHORITY_GENERATION = _OPERATOR_GENERATION = 1


class AuthorityHome:
    """A home with its vault open."""

    def __init__(self, home: Path, vault: Vault) -> None:
        self.paths = HomePaths(home)
        self.vault = vault
        self.signing_key = SigningKey.from_private_bytes(vault.secrets.signing_key)
        self.verify_key = self.paths.read_verify_key()
        if self.signing_key.verify_key != self.verify_key:
            raise VaultError(
                f"the vault in {home} belongs to another authority; restore this authority's vault"
            )
        self.enrolment = Enrolment(self.paths.enrolment)

    @classmethod
    def init(
        cls,
        home: Path,
        settings: Settings,
        passphrase: bytes,
        *,
        first_window: int = 0,
        kdf: Kdf | None = None,
    ) -> "AuthorityHome":
        """Make a home: signing key, ingest secret, first key and plan.

        Raises PlanError or ConfigError before anything is written.
        """
        choice = choose(settings)
        BrokerUrl.parse(settings.broker.url).check_secrecy(insecure=settings.broker.insecure)
        paths = HomePaths(home)
        make_private_dir(home)
        if any(home.iterdir()):
            raise StateError(f"{home} is not empty; a new authority needs an empty folder")
        home.chmod(0o700)
        with _locked(home):
            key = SigningKey.generate()
            secrets = Secrets(
                signing_key=key.private_bytes(),
                ingest_secret=new_ingest_secret(),
                noise_key=os.urandom(32),
                broker_secret=os.urandom(32),
                guard_secret=os.urandom(GUARD_KEY_BYTES),
            )
            vault = Vault.create(paths.vault, passphrase, secrets, kdf=kdf)
            write_private(paths.verify_key, key.verify_key.hex().encode() + b"\n")
            for folder in (paths.plans, paths.credentials):
                make_private_dir(folder)
            authority = cls(home, vault)
            authority._add_plan(settings, choice, first_window)
            authority.write_broker_files(settings.broker)
        return authority

    @classmethod
    def open(cls, home: Path, passphrase: bytes) -> "AuthorityHome":
        """The home in this folder. Raises StateError (no home), VaultError (passphrase, permissions)."""
        HomePaths(home).read_verify_key()
        check_private_dir(home)
        return cls(home, Vault.open(HomePaths(home).vault, passphrase))

    def close(self) -> None:
        """Close the databases."""
        self.enrolment.close()

    # -- plans and keys --------------------------------------------------------------------------

    def _add_plan(self, settings: Settings, choice: Choice, first_window: int) -> Bundle:
        """Make a key and a plan for it. The key is in the vault before the bundle can be published."""
        parameters = choice.parameters
        context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            parameters.ring_degree,
            coeff_mod_bit_sizes=list(parameters.prime_bits),
            n_threads=1,
        )
        public: bytes = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        secret: bytes = context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        key_id = key_id_of(public)
        authority = authority_id(self.verify_key)
        plan = make_plan(settings, choice, authority=authority, key_id=key_id, first_window=first_window)
        bundle = Bundle(plan=plan, public_key=public)
        signed = bundle.encode(self.signing_key)
        self.vault.save(self.vault.secrets.with_context(key_id, secret))
        write_private(self.paths.plans / f"{plan.plan_id}.bundle", signed)
        return bundle

    def rotate(self, settings: Settings, first_window: int | None = None, *, now_s: float) -> Bundle:
        """Make a new key and plan. Default first window: the earliest with enough time to publish it.

        Raises PlanError, naming the nearest possible window, if `first_window` has begun, may be counted
        already, or cuts a window of the plan before (`gridhe.plan.succession`); also if a group has more
        meters than the plan sums.
        """
        choice = choose(settings)
        window_s = settings.plan.window_s
        with _locked(self.paths.home):
            self.vault.reload()
            newest, counted = self.bundle().plan, read_counted(self.paths, self.paths.read_plans())
            if first_window is None:
                start_s = notice_start_s(newest, window_s, now_s=now_s, counted_until_s=counted.until_s)
                first_window = start_s // window_s
            check_start(
                newest, window_s, first_window * window_s, now_s=now_s, counted_until_s=counted.until_s
            )
            self._check_limit(settings)
            bundle = self._add_plan(settings, choice, first_window)
            self.enrolment.raise_version()
            self.write_broker_files(settings.broker)
        return bundle

    def _check_limit(self, settings: Settings) -> None:
        """Raise PlanError if a plan of these settings would sum fewer meters than are enrolled."""
        enrolled = [(meter.group, meter.from_s) for meter in self.enrolment.meters()]
        excess = Limit.of_settings(settings.plan).excess(enrolled)
        if excess is not None:
            raise PlanError(
                f"{excess.group} has {excess.meters} meters, and {excess.settings[0]} is {excess.limit}; "
                f"rotate with {excess.flags}, or move or revoke meters first"
            )

    def retire(self, key_id: str, *, now_s: float, give_up: bool = False) -> None:
        """Delete a secret key for ever and mark it as retired in the roster.

        Raises ConfigError if there is no such key or it is still needed. The roster's version rises after
        the key is deleted. After a crash between the two, retiring the key again raises the version.
        """
        with _locked(self.paths.home):
            self.vault.reload()
            plans = self.paths.read_plans()
            if key_id not in self.vault.secrets.contexts:
                if any(plan.key_id == key_id for plan in plans.values()):
                    self.enrolment.raise_version()
                    raise ConfigError(f"key {key_id} is retired already")
                raise ConfigError(f"there is no key {key_id} in the vault")
            counted = read_counted(self.paths, plans)
            check_retirement(key_id, plans, counted, now_s=now_s, give_up=give_up)
            self.vault.save(self.vault.secrets.without_context(key_id))
            self.enrolment.raise_version()

    def bundle(self) -> Bundle:
        """The newest plan's bundle."""
        return list(self.paths.read_bundles().values())[-1][0]

    def roster(self) -> bytes:
        """The signed roster as of now: entries, and all plans, each with whether its key is retired."""
        version, plans = self.enrolment.version, self.paths.read_plans().values()
        if any(plan.key_id not in self.vault.secrets.contexts for plan in plans):
            self.vault.reload()  # a plan's key is in the vault before its bundle is in the home
        keys = self.vault.secrets.contexts
        named = [RosterPlan(plan.plan_id, plan.start_s, plan.key_id not in keys) for plan in plans]
        former = self.enrolment.former_places()
        return Roster.of(version, self.enrolment.entries(), named, former).encode(self.signing_key)

    # -- enrolment -------------------------------------------------------------------------------

    def enrol_meters(
        self,
        wanted: Iterable[tuple[str, str]],
        settings: Settings,
        *,
        from_s: int = 0,
        move: bool = False,
        renew: bool = False,
        fleet_file: Path | None = None,
        now_s: float = 0.0,
    ) -> list[Path]:
        """Enrol (meter, group) pairs; write their credentials to credentials/, or all to `fleet_file`.

        Returns the files' paths. Repeating a call writes the same credentials again. Raises ConfigError if a
        group would have more meters than a plan sums that has not ended at `now_s` (UTC epoch seconds).
        """
        with _locked(self.paths.home):
            meters = self.enrolment.enrol_meters(
                wanted,
                from_s=from_s,
                fleet=fleet_file is not None,
                move=move,
                renew=renew,
                limits=limits_in_force(self.paths.read_plans(), now_s),
            )
            self.write_broker_files(settings.broker)
            devices = [self._device(meter) for meter in meters]
            if fleet_file is not None:
                password = self._password(FLEET_USER, self.enrolment.fleet_generation)
                FleetCredential(devices=tuple(devices), password=password).save(fleet_file)
                return [fleet_file]
            make_private_dir(self.paths.credentials)
            paths = [self.paths.credentials / f"{device.meter}.json" for device in devices]
            # Each file is flushed to the disk, about 10 ms: a thousand in sequence would take 10 s.
            with ThreadPoolExecutor(_SAVERS) as savers:
                list(savers.map(DeviceCredential.save, devices, paths))
        return paths

    def _device(self, meter: EnrolledMeter) -> DeviceCredential:
        return DeviceCredential(
            meter=meter.name,
            group=meter.group,
            password=self._password(meter.name, meter.generation),
            ingest_key=derive_key(self.vault.secrets.ingest_secret, meter.name),
            guard_key=guard_key(self.vault.secrets.guard_secret, meter.name),
            home_key=home_key(self.vault.secrets.guard_secret),
            authority_key=self.verify_key,
        )

    def enrol_aggregator(self, name: str, settings: Settings) -> Path:
        """Enrol an aggregator and write its credential.

        Enrolling it again makes a new signing key and password. Totals that arrive later with the old
        signature are refused; the aggregator signs its waiting totals again with the new key. Totals that
        arrived before stay valid.
        """
        with _locked(self.paths.home):
            key = SigningKey.generate()
            enrolled = self.enrolment.enrol_aggregator(name, key.verify_key)
            self.write_broker_files(settings.broker)
            make_private_dir(self.paths.credentials)
            path = self.paths.credentials / f"{aggregator_user(name)}.json"
            AggregatorCredential(
                aggregator=name,
                password=self._password(aggregator_user(name), enrolled.generation),
                ingest_secret=self.vault.secrets.ingest_secret,
                signing_key=key.private_bytes(),
                authority_key=self.verify_key,
            ).save(path)
        return path

    def revoke(self, names: Iterable[str], settings: Settings) -> int:
        """Revoke meters and aggregators, and delete their files in credentials/. Returns how many."""
        wanted = list(names)
        with _locked(self.paths.home):
            count = self.enrolment.revoke(wanted)
            for name in wanted:
                for file in (f"{name}.json", f"{aggregator_user(name)}.json"):
                    (self.paths.credentials / file).unlink(missing_ok=True)
            self.write_broker_files(settings.broker)
        return count

    # -- the broker's files ----------------------------------------------------------------------

    @property
    def broker_password(self) -> str:
        """The authority's own broker password."""
        return self._password(AUTHORITY_USER, _AUTHORITY_GENERATION)

    def _password(self, user: str, generation: int) -> str:
        return derive_password(self.vault.secrets.broker_secret, user, generation)

    def write_broker_files(self, settings: BrokerSettings) -> Path:
        """Write mosquitto.conf, gridhe.conf, acl and passwords to broker/; return mosquitto.conf's path.

        The operator's password goes to credentials/ too, because that user is never enrolled.

        The broker listens where broker.url points: on loopback only if that is loopback, on IPv6 if it is an
        IPv6 address, on both if it is a name, and with TLS if it is mqtts. `gridhe-keyring ca` writes the
        broker's certificate to broker/tls/ (gridhe.keyring.home.ca): server.crt, server.key, and ca.crt to
        check clients with. Raises ConfigError, StateError.
        """
        url = BrokerUrl.parse(settings.url)
        if settings.client_certificates and not url.tls:
            raise ConfigError(
                f"broker.client_certificates needs TLS, and broker.url is {url}; use mqtts://{url.host}:8883"
            )
        meters, aggregators = self.enrolment.meters(), self.enrolment.aggregators()
        passwords = {meter.name: self._password(meter.name, meter.generation) for meter in meters}
        for each in aggregators:
            user = aggregator_user(each.name)
            passwords[user] = self._password(user, each.generation)
        passwords[AUTHORITY_USER] = self.broker_password
        passwords[OPERATOR_USER] = self._password(OPERATOR_USER, _OPERATOR_GENERATION)
        make_private_dir(self.paths.credentials)
        write_private(self.paths.operator_password, passwords[OPERATOR_USER].encode() + b"\n")
        fleet = [meter.name for meter in meters if meter.fleet]
        if fleet:
            passwords[FLEET_USER] = self._password(FLEET_USER, self.enrolment.fleet_generation)
        bundles = self.paths.read_bundles().values()
        rings = [2 * bundle.plan.parameters.wire_bytes for bundle, _ in bundles]
        largest = max(
            _PAYLOAD_MINIMUM, *rings, *(2 * len(data) for _, data in bundles), 2 * len(self.roster())
        )
        elsewhere = settings.server_dir is not None
        tls = (Path(settings.server_dir) if settings.server_dir else self.paths.broker.resolve()) / "tls"
        return write_server_files(
            self.paths.broker,
            settings=settings,
            passwords=passwords,
            # An excluded meter too: the aggregator answers it that it is not enrolled.
            entries=[RosterEntry(meter.name, meter.group, meter.from_s) for meter in meters],
            aggregators=[each.name for each in aggregators],
            fleets={FLEET_USER: fleet} if fleet else None,
            largest_payload=largest,
            port=url.port,
            bind=url.bind,
            tls=ServerTls(
                cert_file=tls / "server.crt",
                key_file=tls / "server.key",
                ca_file=tls / "ca.crt" if settings.client_certificates else None,
            )
            if url.tls
            else None,
            # On another machine Mosquitto changes to its own user by itself.
            owner=None if elsewhere else broker_owner(self.paths.home),
        )

    def broker_users(self) -> list[str]:
        """The names of all broker users."""
        meters = self.enrolment.meters()
        fleet = [FLEET_USER] if any(meter.fleet for meter in meters) else []
        aggregators = [aggregator_user(each.name) for each in self.enrolment.aggregators()]
        return [AUTHORITY_USER, OPERATOR_USER, *aggregators, *fleet, *(meter.name for meter in meters)]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Lock the home for a change of several files. Raises StateError if another process has the lock."""
        with _locked(self.paths.home):
            yield


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lock the home. Raises StateError if another process has the lock."""
    try:
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"cannot open {home}: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StateError(f"{home} is being changed by another gridhe-keyring; try again") from None
    else:
        yield
    finally:
        os.close(handle)
