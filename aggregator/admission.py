"""Checks of an envelope before it is folded; cheap checks come first.

Before the envelope is decrypted, the sender is unknown and gets no receipt. After it, the meter itself sent
the batch, and a refusal is receipted. Each check raises EnvelopeError with its reason:

    size malformed version topic tag                    unknown sender
    rate                                                authentic sender, more than its share (engine)
    topic plan retired key malformed before_plan        authentic sender, a batch that cannot count
    expired not_enrolled group after_plan clock early late
    size residue transparent                            authentic sender, no valid ciphertext

A meter that has moved may publish only on its new group's topic, but batches that it sealed before count in
the old group. So the topic's group must be the header's, or the meter's present one.

The end of a plan follows from the bundles of later plans and from the roster (`gridhe.plan.succession`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.state.enrolment import MeterPlace, RosterTable
from gridhe.errors import EnvelopeError
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period, Succession
from gridhe.wire import topics
from gridhe.wire.envelope import OVERHEAD_BYTES, Header, envelope_key, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes

__all__ = ["Admission"]

_KEYS_CACHED = 32_768  # some 250 bytes each
_NO_PLAN_BYTES_MAX = 16 << 20  # before any plan is known


class _Keys(NamedTuple):
    """A meter's ingest key, for its receipts, and its envelope key."""

    ingest: bytes
    envelope: bytes


class Admission:
    """Checks envelopes, and finds their plan and the meter's place."""

    def __init__(
        self,
        ingest_secret: bytes,
        enrolment: RosterTable,
        *,
        filters: Iterable[str] = (),
        pruned_before: Mapping[str, int] | None = None,
    ) -> None:
        """`filters`: topic filters of the groups that count here; empty for all groups.

        `pruned_before`: per plan the first window whose counted meters are still known.
        """
        self._secret = ingest_secret
        self._filters = tuple(filters)
        self._pruned_before = {} if pruned_before is None else pruned_before
        self._enrolment = enrolment
        self._keys: dict[str, _Keys] = {}  # of authenticated senders; when full, no more are added
        self._plans: dict[str, ActivePlan] = {}
        self._max_bytes = _NO_PLAN_BYTES_MAX
        self.missing_plans: tuple[str, ...] = ()  # ids of plans on the roster without a bundle

    def add_plan(self, plan: Plan) -> None:
        """Accept envelopes of another plan."""
        plan_id = plan.plan_id
        period = Period(plan_id, plan.start_s)
        self._plans[plan_id] = ActivePlan(plan, plan_id, Planes(plan.parameters), period)
        self._max_bytes = OVERHEAD_BYTES + max(active.planes.size for active in self._plans.values())
        self.update_periods()

    def update_periods(self) -> None:
        """Update the end and retirement of each plan; call it after a new bundle or roster."""
        named = self._enrolment.plans
        own = [(plan_id, active.period.start_s) for plan_id, active in self._plans.items()]
        succession = Succession([*own, *((plan.plan_id, plan.start_s) for plan in named)])
        retired = {plan.plan_id for plan in named if plan.retired}
        for plan_id, active in self._plans.items():
            period = succession.period(plan_id) or active.period
            self._plans[plan_id] = replace(active, period=period, retired=plan_id in retired)
        self.missing_plans = tuple(
            plan.plan_id for plan in named if not plan.retired and plan.plan_id not in self._plans
        )

    @property
    def plans(self) -> dict[str, ActivePlan]:
        """The known plans, by id."""
        return self._plans

    def key_of(self, name: str) -> bytes:
        """The ingest key of a meter or aggregator."""
        keys = self._keys.get(name)
        return derive_key(self._secret, name) if keys is None else keys.ingest

    def authenticate(self, topic: str, payload: bytes) -> tuple[Header, bytes]:
        """The header and the decrypted planes, if the named meter sent them. Raises EnvelopeError.

        Payloads larger than any plan's envelope are not decrypted; the size of the planes is not checked.
        """
        envelope = open_envelope(payload, self._max_bytes)
        header = envelope.header
        as_sealed = topic == topics.batch(header.group, header.meter)
        if not as_sealed and topics.parse_batch(topic)[1] != header.meter:
            raise EnvelopeError("topic", f"{header.meter} of {header.group} arrived on {topic[:120]!r}")
        keys = self._keys.get(header.meter) or self._derive(header.meter)
        ciphertext = envelope.open(keys.envelope)
        if not as_sealed:
            place = self._enrolment.meter(header.meter)
            if place is None or topic != topics.batch(place.group, header.meter):
                raise EnvelopeError("topic", f"{header.meter} of {header.group} arrived on {topic[:120]!r}")
        if len(self._keys) < _KEYS_CACHED:
            self._keys[header.meter] = keys
        return header, ciphertext

    def _derive(self, name: str) -> _Keys:
        ingest_key = derive_key(self._secret, name)
        return _Keys(ingest_key, envelope_key(ingest_key))

    def known(self, header: Header) -> ActivePlan:
        """The plan of an authentic batch, if its window's counted meters are known. Raises EnvelopeError."""
        active = self._plans.get(header.plan)
        if active is None:
            raise EnvelopeError("plan", f"plan {header.plan} is not known")
        plan = active.plan
        if active.retired:
            raise EnvelopeError(
                "retired", f"the key of plan {header.plan} is retired: it cannot be decrypted"
            )
        if header.key != plan.key_id:
            raise EnvelopeError("key", f"plan {header.plan} uses key {plan.key_id}, not {header.key}")
        if len(header.proof) != plan.proof_bytes:
            raise EnvelopeError(
                "malformed",
                f"plan {header.plan} has proofs of {plan.proof_bytes} bytes, not {len(header.proof)}",
            )
        if header.window < plan.first_window:
            raise EnvelopeError("before_plan", f"plan {header.plan} starts with window {plan.first_window}")
        floor = self._pruned_before.get(header.plan, 0)
        if header.window < floor:
            raise EnvelopeError(
                "expired", f"the counted meters of windows before {floor} are no longer known"
            )
        return active

    def place(self, active: ActivePlan, header: Header, now: float | None) -> MeterPlace:
        """The place of an authentic batch that may count at `now` (UTC epoch seconds; None: not believed).

        Raises EnvelopeError."""
        plan = active.plan
        start_s = plan.window_start_s(header.window)
        place = self._enrolment.at(header.meter, start_s)
        if place is None:
            raise EnvelopeError("not_enrolled", f"{header.meter} is not enrolled for window {header.window}")
        if place.group != header.group:
            raise EnvelopeError("group", f"{header.meter} is enrolled in {place.group}, not {header.group}")
        topic = topics.batch(header.group, header.meter)
        if self._filters and not any(topics.matches(one, topic) for one in self._filters):
            raise EnvelopeError("group", f"{header.group} is not covered by this aggregator's filters")
        end_s = start_s + plan.window_s
        if end_s > active.period.end_s:
            raise EnvelopeError(
                "after_plan",
                f"plan {header.plan} ends at {active.period.end_s:.0f} s, before window {header.window} does",
            )
        if now is None:
            raise EnvelopeError("clock", "this aggregator's clock is not believed")
        if end_s > now + plan.early_s:
            raise EnvelopeError("early", f"window {header.window} ends {end_s - now:.0f} s from now")
        if end_s < now - plan.horizon_s:
            raise EnvelopeError("late", f"window {header.window} ended {now - end_s:.0f} s ago")
        return place
