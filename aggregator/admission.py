"""What may be folded: every check of an envelope, in the order that costs an attacker most.

Nothing is believed before the tag; after it, faults are the sender's own and are receipted.
Each check raises EnvelopeError with its reason:

    size malformed version topic tag                    anyone could have sent these
    topic plan retired key before_plan expired          an authentic sender, a batch that cannot count
    not_enrolled group after_plan clock early late
    residue transparent                                 an authentic sender, no valid ciphertext

A meter that has moved may only publish on its new group's topic; what it sealed before it moved counts in the
old group. So the topic's group is the header's, or the one that the meter is enrolled in now.

When a plan ends is known from the bundles of later plans and from the roster (`gridhe.plan.succession`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.state.enrolment import MeterPlace, RosterTable
from gridhe.errors import EnvelopeError
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period, Succession
from gridhe.wire import topics
from gridhe.wire.envelope import OVERHEAD_BYTES, Envelope, Header, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes

__all__ = ["Admission"]

_KEYS_CACHED = 32_768  # some 150 bytes each
_NO_PLAN_BYTES_MAX = 16 << 20  # before any plan is known


class Admission:
    """Decides which envelopes count."""

    def __init__(
        self,
        ingest_secret: bytes,
        enrolment: RosterTable,
        *,
        filters: Iterable[str] = (),
        pruned_before: Mapping[str, int] | None = None,
    ) -> None:
        """`filters`: the topics of the groups that count here, all without any.

        `pruned_before`: per plan the first window whose counted meters are still known.
        """
        self._secret = ingest_secret
        self._filters = tuple(filters)
        self._pruned_before = {} if pruned_before is None else pruned_before
        self._enrolment = enrolment
        self._keys: dict[str, bytes] = {}  # of senders whose tag was right; full, it keeps what it has
        self._plans: dict[str, ActivePlan] = {}
        self._max_bytes = _NO_PLAN_BYTES_MAX
        self.missing_plans: tuple[str, ...] = ()  # ids of plans that the roster names and that never came

    def add_plan(self, plan: Plan) -> None:
        """Accept envelopes of one more plan."""
        plan_id = plan.plan_id
        period = Period(plan_id, plan.start_s)
        self._plans[plan_id] = ActivePlan(plan, plan_id, Planes(plan.parameters), period)
        self._max_bytes = OVERHEAD_BYTES + max(active.planes.size for active in self._plans.values())
        self.update_periods()

    def update_periods(self) -> None:
        """Work out anew when each plan ends, and whether it is retired: a bundle or a roster has come."""
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
        """The plans in force, by id."""
        return self._plans

    def key_of(self, name: str) -> bytes:
        """The ingest key of a meter or aggregator."""
        return self._keys.get(name) or derive_key(self._secret, name)

    def authenticate(self, topic: str, payload: bytes) -> Envelope:
        """The envelope, from the meter it names. Raises EnvelopeError."""
        envelope = open_envelope(payload, self._max_bytes)
        header = envelope.header
        as_sealed = topic == topics.batch(header.group, header.meter)
        if not as_sealed and topics.parse_batch(topic)[1] != header.meter:
            raise EnvelopeError("topic", f"{header.meter} of {header.group} came on {topic[:120]!r}")
        key = self.key_of(header.meter)
        envelope.check_tag(key)
        if not as_sealed:
            place = self._enrolment.meter(header.meter)
            if place is None or topic != topics.batch(place.group, header.meter):
                raise EnvelopeError("topic", f"{header.meter} of {header.group} came on {topic[:120]!r}")
        if len(self._keys) < _KEYS_CACHED:
            self._keys[header.meter] = key
        return envelope

    def known(self, header: Header) -> ActivePlan:
        """The plan of an authentic batch, if this aggregator knows who is counted for its window."""
        active = self._plans.get(header.plan)
        if active is None:
            raise EnvelopeError("plan", f"plan {header.plan} is not known here")
        plan = active.plan
        if active.retired:
            raise EnvelopeError("retired", f"the key of plan {header.plan} is retired: nobody can read it")
        if header.key != plan.key_id:
            raise EnvelopeError("key", f"plan {header.plan} uses key {plan.key_id}, not {header.key}")
        if header.window < plan.first_window:
            raise EnvelopeError("before_plan", f"plan {header.plan} starts with window {plan.first_window}")
        floor = self._pruned_before.get(header.plan, 0)
        if header.window < floor:
            raise EnvelopeError("expired", f"who is counted for windows before {floor} is forgotten")
        return active

    def place(self, active: ActivePlan, header: Header, now: float | None) -> MeterPlace:
        """The place of an authentic batch, if it may count at `now` (UTC epoch seconds; None: not known)."""
        plan = active.plan
        start_s = plan.window_start_s(header.window)
        place = self._enrolment.at(header.meter, start_s)
        if place is None:
            raise EnvelopeError("not_enrolled", f"{header.meter} is not enrolled for window {header.window}")
        if place.group != header.group:
            raise EnvelopeError("group", f"{header.meter} is enrolled in {place.group}, not {header.group}")
        topic = topics.batch(header.group, header.meter)
        if self._filters and not any(topics.matches(one, topic) for one in self._filters):
            raise EnvelopeError("group", f"{header.group} is no group of this aggregator's filters")
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
