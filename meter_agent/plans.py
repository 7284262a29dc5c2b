"""The plans that a meter knows: signed bundles, cached on disk so that it can seal offline."""

import hashlib
import logging
import math
from pathlib import Path

from gridhe.base.files import make_private_dir, write_private
from gridhe.errors import BundleError, StateError
from gridhe.meter_agent.sealing import Encryptor
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period, Succession
from gridhe.wire.bundle import Bundle

__all__ = ["PlanBook"]

_LOG = logging.getLogger(__name__)
_KEPT_MAX = 16  # bundles on disk: those with the latest starts
_BYTES_MAX = 64 << 20
_CONTEXTS_MAX = 2  # around a rotation two plans are in use; a context takes several MB


class PlanBook:
    """Verified bundles by plan; finds the plan of a window (`gridhe.plan.succession`).

    The plan of a window depends only on the plans' starts, so a replayed old bundle changes nothing.
    """

    def __init__(self, folder: Path, authority_key: bytes) -> None:
        """Load the bundles cached in `folder`; skips a damaged file with a warning. Raises StateError."""
        self._folder, self._authority_key = folder, authority_key
        self._bundles: dict[str, Bundle] = {}
        self._succession = Succession(())
        self._seen: set[bytes] = (
            set()
        )  # digests of bundles handled before: retained ones arrive at every connect
        self._encryptors: dict[str, Encryptor] = {}
        self.junk = 0
        make_private_dir(folder)
        for path in sorted(folder.glob("*.bundle")):
            try:
                self._keep(Bundle.decode(path.read_bytes(), authority_key))
            except BundleError as error:
                _LOG.warning("cached plan %s is not used: %s", path, error)
            except OSError as error:
                raise StateError(f"cannot read {path}: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._bundles)

    def add(self, data: bytes) -> Plan | None:
        """Add a bundle. Returns its plan, or None if it is known already or invalid (counted in `junk`)."""
        digest = hashlib.sha256(data).digest()
        if digest in self._seen:
            return None
        try:
            if len(data) > _BYTES_MAX:
                raise BundleError(f"a bundle of {len(data)} bytes")
            bundle = Bundle.decode(data, self._authority_key)
            plan_id = bundle.plan.plan_id
            if plan_id in self._bundles:
                self._seen.add(digest)
                return None
            self._encryptors[plan_id] = Encryptor(bundle)
        except BundleError as error:
            self.junk += 1
            _LOG.warning("a bundle was refused: %s", error)
            return None
        self._seen.add(digest)
        self._keep(bundle)
        self._trim_contexts(plan_id)
        try:
            write_private(self._folder / f"{plan_id}.bundle", data)
        except StateError as error:
            _LOG.warning("plan %s could not be cached, so it is not known offline: %s", plan_id, error)
        self._forget_oldest()
        _LOG.info("plan %s counts from window %d on", plan_id, bundle.plan.first_window)
        return bundle.plan

    def _keep(self, bundle: Bundle) -> None:
        plan_id = bundle.plan.plan_id
        self._bundles[plan_id] = bundle
        self._order()

    def _order(self) -> None:
        self._succession = Succession((plan_id, one.plan.start_s) for plan_id, one in self._bundles.items())

    def _forget_oldest(self) -> None:
        for period in self._succession.periods[:-_KEPT_MAX]:
            del self._bundles[period.plan_id]
            self._encryptors.pop(period.plan_id, None)
            (self._folder / f"{period.plan_id}.bundle").unlink(missing_ok=True)
        self._order()

    def _plan(self, period: Period | None) -> Plan | None:
        return None if period is None else self._bundles[period.plan_id].plan

    @property
    def first_start_s(self) -> int | None:
        """When the earliest known plan starts; None when none is known."""
        periods = self._succession.periods
        return periods[0].start_s if periods else None

    @property
    def latest(self) -> Plan | None:
        """The plan with the latest start."""
        periods = self._succession.periods
        return self._plan(periods[-1]) if periods else None

    def known(self, plan_id: str) -> Plan | None:
        """The plan of this id, if it is known."""
        bundle = self._bundles.get(plan_id)
        return None if bundle is None else bundle.plan

    def at(self, moment_s: float) -> Plan | None:
        """The plan in force at a moment (UTC epoch seconds); None before the first."""
        return self._plan(self._succession.at(moment_s))

    def next_start_s(self, moment_s: float) -> int | None:
        """When the next plan after a moment starts; None when none is known."""
        periods = self._succession.from_moment(moment_s)
        return next((period.start_s for period in periods if period.start_s > moment_s), None)

    def of_window(self, window: int, window_s: int) -> Plan | None:
        """The plan to which a window of this length belongs; None if there is none."""
        plan = self.at(window * window_s)
        if plan is None or plan.window_s != window_s:
            return None
        return plan if self.holds(plan, window) else None

    def holds(self, plan: Plan, window: int) -> bool:
        """Whether a window number of this plan lies within the plan's period."""
        period = self._succession.period(plan.plan_id)
        return period is not None and period.holds(window, plan.window_s)

    def ended(self) -> list[tuple[str, int]]:
        """(plan id, first window after the plan's end) of every plan that has a successor."""
        return [
            (period.plan_id, int(period.end_s // self._bundles[period.plan_id].plan.window_s))
            for period in self._succession.periods[:-1]
        ]

    def instead_of(self, plan_id: str, window: int) -> list[tuple[Plan, int]]:
        """The windows of the plan now in force that together cover a window of an ended plan.

        Empty if the new window length does not divide the old one.
        """
        old = self.known(plan_id)
        plan = None if old is None else self.at(old.window_start_s(window))
        if old is None or plan is None or old.window_s % plan.window_s:
            return []
        first, count = old.window_start_s(window) // plan.window_s, old.window_s // plan.window_s
        return [(plan, each) for each in range(first, first + count) if self.holds(plan, each)]

    def next_window(self, moment_s: float) -> tuple[Plan, int] | None:
        """The first window that starts at or after a moment (UTC epoch seconds), with its plan."""
        for period in self._succession.from_moment(moment_s):
            plan = self._bundles[period.plan_id].plan
            window = max(plan.first_window, math.ceil(moment_s / plan.window_s))
            if period.holds(window, plan.window_s):
                return plan, window
        return None

    def encryptor(self, plan: Plan) -> Encryptor:
        """The encryptor of a known plan, created at first use. Raises BundleError."""
        plan_id = plan.plan_id
        if plan_id not in self._encryptors:
            self._encryptors[plan_id] = Encryptor(self._bundles[plan_id])
        self._trim_contexts(plan_id)
        return self._encryptors[plan_id]

    def _trim_contexts(self, newest: str) -> None:
        self._encryptors[newest] = self._encryptors.pop(newest)  # to the end: the latest used
        while len(self._encryptors) > _CONTEXTS_MAX:
            del self._encryptors[next(iter(self._encryptors))]
