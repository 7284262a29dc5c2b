"""What may be folded: every check of an envelope, in the order that costs an attacker most.

Nothing is believed before the tag; after it, faults are the sender's own and are receipted.
Each check raises EnvelopeError with its reason:

    size malformed version topic tag                    anyone could have sent these
    plan retired key not_enrolled group before_plan     an authentic sender, a batch that cannot count
    after_plan early late
    residue transparent                                 an authentic sender, no valid ciphertext

When a plan ends is known from the bundles of later plans and from the roster (`gridhe.plan.succession`).
"""

from dataclasses import dataclass, replace

from gridhe.aggregator.state.enrolment import EnrolledMeter, Enrolment
from gridhe.errors import EnvelopeError
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period, Succession
from gridhe.wire import topics
from gridhe.wire.envelope import OVERHEAD_BYTES, Envelope, Header, open_envelope
from gridhe.wire.ingest import derive_key
from gridhe.wire.planes import Planes

__all__ = ["ActivePlan", "Admission"]

_KEYS_CACHED = 32_768  # some 150 bytes each
_NO_PLAN_BYTES_MAX = 16 << 20  # before any plan is known


@dataclass(frozen=True, slots=True)
class ActivePlan:
    """A plan with its identity and its planes worked out once, and when it holds."""

    plan: Plan
    plan_id: str
    planes: Planes
    period: Period
    retired: bool = False  # its key is gone: nothing of it can ever be released


class Admission:
    """Decides which envelopes count."""

    def __init__(self, ingest_secret: bytes, enrolment: Enrolment) -> None:
        self._secret = ingest_secret
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
        if topic != topics.batch(header.group, header.meter):
            raise EnvelopeError("topic", f"{header.meter} of {header.group} came on {topic[:120]!r}")
        key = self.key_of(header.meter)
        envelope.check_tag(key)
        if len(self._keys) < _KEYS_CACHED:
            self._keys[header.meter] = key
        return envelope

    def place(self, header: Header, now: float) -> tuple[ActivePlan, EnrolledMeter]:
        """The plan and place of an authentic batch, if it may count at `now` (UTC epoch seconds)."""
        active = self._plans.get(header.plan)
        if active is None:
            raise EnvelopeError("plan", f"plan {header.plan} is not known here")
        plan = active.plan
        if active.retired:
            raise EnvelopeError("retired", f"the key of plan {header.plan} is retired: nobody can read it")
        if header.key != plan.key_id:
            raise EnvelopeError("key", f"plan {header.plan} uses key {plan.key_id}, not {header.key}")
        start_s = plan.window_start_s(header.window)
        place = self._enrolment.meter(header.meter)
        if place is None or place.from_s > start_s:
            raise EnvelopeError("not_enrolled", f"{header.meter} is not enrolled for window {header.window}")
        if place.group != header.group:
            raise EnvelopeError("group", f"{header.meter} is enrolled in {place.group}, not {header.group}")
        if header.window < plan.first_window:
            raise EnvelopeError("before_plan", f"plan {header.plan} starts with window {plan.first_window}")
        end_s = start_s + plan.window_s
        if end_s > active.period.end_s:
            raise EnvelopeError(
                "after_plan",
                f"plan {header.plan} ends at {active.period.end_s:.0f} s, before window {header.window} does",
            )
        if end_s > now + plan.early_s:
            raise EnvelopeError("early", f"window {header.window} ends {end_s - now:.0f} s from now")
        if end_s < now - plan.horizon_s:
            raise EnvelopeError("late", f"window {header.window} ended {now - end_s:.0f} s ago")
        return active, place
