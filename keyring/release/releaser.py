"""Releasing one total, so that a crash at any moment neither loses an answer nor draws noise twice.

    1. check      signature, then the policy (gridhe.keyring.release.policy); a refusal goes to the ledger
    2. decide     write the decision to the ledger, on the disk
    3. decrypt    with noise and rounding (gridhe.keyring.release.decrypt)
    4. withhold   intervals that would isolate too few meters
    5. store      write the answer to answers.db, on the disk
    6. close      write the answer's digest to the ledger
    7. give       append one line to the `--out` file, on the disk; before this step no integer is shown
    8. mark       store in answers.db that the file has the line; then print the line to stdout
    9. settle     mark the total as released in the inbox, and delete its bytes
   10. publish    on release/<group>, until the broker acknowledges it (gridhe.keyring.release.publisher)

This module does 1 to 6, gridhe.keyring.release.released_lines 7 and 8, gridhe.keyring.release.queue 9.

A crash leaves, before 2: nothing. After 2: the total counts in the budget and for every later decision, and
the next request for it continues at 3; the noise is a function of the ciphertext, so decrypting again gives
the same integers, and none of them was shown. After 5: the next start adds the digest, and a request gets the
stored answer. After 6: the next start continues at 7, because the answer has no mark. In 7: a torn last line
is cut off and written again; a complete one is only marked. After 8: the total is still waiting in the inbox,
so it is tried again, gets the stored answer and no second line. After 9: each start publishes the newest
window of each group again. A full disk at any step has the effect of such a crash.

If a stored answer does not match its digest, the program stops. It also stops if a file of the home is older
than the others (gridhe.keyring.release.consistency).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridhe.base.failpoints import failpoint
from gridhe.config.settings import ReleaseSettings
from gridhe.errors import EnvelopeError, ReleaseRefused, StateError
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.vault import Secrets
from gridhe.keyring.release.answers import Answer, Answers, digest_of
from gridhe.keyring.release.decrypt import Decryptor, noise_label
from gridhe.keyring.release.ledger import START, Head, Ledger, LedgerRecord
from gridhe.keyring.release.policy import Claim, ReleasePolicy
from gridhe.keyring.release.stops import Stops
from gridhe.plan.names import ancestors
from gridhe.plan.plan import Plan
from gridhe.wire.total import Total, TotalKey

__all__ = ["Releaser", "claim_of", "claim_of_record"]


def claim_of(total: Total, plan: Plan | None) -> Claim:
    """The claim of a total. `content` covers plan, key and ciphertext, as `noise_label` does."""
    header = total.header
    return Claim(
        plan=header.plan,
        key=header.key,
        aggregator=header.aggregator,
        group=header.group,
        window=header.window,
        part=header.part,
        meters=header.meters,
        members=header.members,
        pieces=tuple((piece.group, piece.part, piece.meters) for piece in header.pieces),
        content=noise_label(plan, total.ciphertext) if plan is not None else b"",
    )


def claim_of_record(record: LedgerRecord) -> Claim:
    """The claim in a ledger record of kind `decided`. Raises StateError."""
    try:
        return Claim(
            plan=record["plan"],
            key=record["key"],
            aggregator=record["aggregator"],
            group=record["group"],
            window=record["window"],
            part=record["part"],
            meters=record["meters"],
            members=bytes.fromhex(record["members"]),
            pieces=tuple((group, part, meters) for group, part, meters in record["pieces"]),
            content=bytes.fromhex(record["content"]),
        )
    except (KeyError, TypeError, ValueError):
        raise StateError(
            f"ledger line {record.get('n')} is not a complete decision; restore the ledger from a backup"
        ) from None


def total_of_record(record: LedgerRecord) -> TotalKey:
    """The key of the total that a record is about."""
    return TotalKey(record["plan"], record["group"], record["window"], record["part"])


def _fields(total: TotalKey) -> dict[str, str | int]:
    return {"plan": total.plan, "window": total.window, "group": total.group, "part": total.part}


class Releaser:
    """Releases totals by the policy. The ledger's lock ensures that no other process writes its files."""

    def __init__(
        self,
        paths: HomePaths,
        *,
        plans: Mapping[str, Plan],
        secrets: Callable[[], Secrets],
        aggregators: Callable[[], Mapping[str, bytes]],
        former_keys: Callable[[], Mapping[str, Sequence[bytes]]] = dict,
        settings: ReleaseSettings,
        now: Callable[[], str],
        inbox_head: Head = START,
        versions: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Open ledger and answers and bring them up to date. Raises StateError.

        `plans` (by id) and the results of the callables may grow later. `aggregators` returns verify keys by
        id, `former_keys` the keys that were valid before, `now` the ISO time, `versions` the versions of the
        home's other files, which are stored with each answer. `inbox_head` is the inbox's copy of the
        ledger's head.
        """
        self._versions = versions
        self._plans, self._secrets, self._aggregators = plans, secrets, aggregators
        self._former_keys = former_keys
        self.policy = ReleasePolicy(plans=plans, minimum_meters=settings.minimum_meters)
        self.stops = Stops()
        self._digests: dict[TotalKey, str] = {}
        self._refusals: dict[TotalKey, str] = {}  # the last one in the ledger, so that a retry adds no line
        self._unloaded: dict[
            tuple[str, int], list[TotalKey]
        ] = {}  # answers of earlier runs, by plan and window
        self._decryptors: dict[str, Decryptor] = {}
        self.answers = Answers(paths.answers)
        try:
            heads = {paths.answers.name: self.answers.head(), paths.inbox.name: inbox_head}
            self.ledger = Ledger(paths.ledger, now=now, on_record=self._replay, heads=heads)
        except BaseException:
            self.answers.close()
            raise
        try:
            self._close_answers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close ledger and answers."""
        self.ledger.close()
        self.answers.close()

    def __enter__(self) -> "Releaser":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, kind: str, **fields: Any) -> None:
        """Append a record that stops depend on."""
        self.stops.record(self.ledger.append(kind, **fields))

    def _replay(self, record: LedgerRecord) -> None:
        self.stops.record(record)
        if record["kind"] == "decided":
            claim = claim_of_record(record)
            if claim.plan not in self._plans:
                raise StateError(
                    f"the ledger has decided totals of plan {claim.plan}, whose bundle is missing, so "
                    "the time of their windows is unknown; restore plans/ from a backup"
                )
            self.policy.record(claim)
        elif record["kind"] == "answered":
            total = total_of_record(record)
            self._digests[total] = record["answer"]
            self._unloaded.setdefault((total.plan, total.window), []).append(total)
        elif record["kind"] == "refused":
            self._refusals[total_of_record(record)] = record["refusal"]

    def _close_answers(self) -> None:
        """Do step 6 for answers that a crash left without it. Raises StateError on a contradiction."""
        totals = set(self.answers.totals())
        for total in totals:
            if self.policy.decided(total) is None:
                raise StateError(
                    f"{self.answers.path} has an answer for {total}, and {self.ledger.path} has no decision "
                    "on it; restore newer copies of ledger and answers"
                )
        for total in self._digests.keys() - totals:
            raise StateError(
                f"{self.answers.path} has no answer for {total}, and {self.ledger.path} has one: the answers "
                "are older; restore a newer copy of answers.db from a backup"
            )
        for total in totals - self._digests.keys():
            self._close_answer(total, digest_of(self._body(total) or b""))
            self._unloaded.setdefault((total.plan, total.window), []).append(total)

    def _close_answer(self, total: TotalKey, digest: str) -> None:
        self._write("answered", **_fields(total), answer=digest)
        self._digests[total] = digest

    def _body(self, total: TotalKey) -> bytes | None:
        """The stored answer, checked against the ledger."""
        body = self.answers.get(total)
        digest = self._digests.get(total)
        if digest is not None and (body is None or digest_of(body) != digest):
            raise StateError(
                f"the stored answer for {total} does not match the ledger; restore answers.db from a backup"
            )
        return body

    def _load(self, plan: str, window: int) -> None:
        """Add to the policy the answers of this window from earlier runs."""
        for total in self._unloaded.pop((plan, window), ()):
            claim, body = self.policy.decided(total), self._body(total)
            if claim is not None and body is not None:
                answer = Answer.decode(body)
                if not answer.refused:
                    self.policy.answer(claim, answer.given())

    def release(self, total: Total) -> tuple[Plan, Answer]:
        """Do steps 1 to 6; return the plan and the answer. Raises ReleaseRefused, StateError."""
        try:
            return self._release(total)
        except ReleaseRefused as refused:
            header = total.header
            key = TotalKey(header.plan, header.group, header.window, header.part)
            if self._refusals.get(key) != str(refused):
                self.ledger.append("refused", **_fields(key), rule=refused.rule, refusal=str(refused))
                self._refusals[key] = str(refused)
            raise

    def drop_retired_keys(self) -> None:
        """Delete from memory every secret key that is no longer in the vault."""
        held = self._secrets().contexts
        gone = [plan_id for plan_id in self._decryptors if self._plans[plan_id].key_id not in held]
        for plan_id in gone:
            del self._decryptors[plan_id]

    def resume(self, name: str) -> None:
        """Resume what is stopped under this name, if anything. Raises StateError."""
        for kind in self.stops.kinds(name):
            self._write("resumed", **{kind: name})

    def note_dropped(self, reasons: Mapping[str, int]) -> None:
        """Record in the ledger how many totals were dropped for each reason. Raises StateError."""
        self.ledger.append("dropped", reasons=dict(sorted(reasons.items())))

    def _release(self, total: Total) -> tuple[Plan, Answer]:
        self._check_signature(total)
        plan = self._plans.get(total.header.plan)
        claim = claim_of(total, plan)
        contexts = self._secrets().contexts
        fresh = self.policy.decide(claim, plan, key_held=claim.key in contexts)
        if plan is None:
            raise ReleaseRefused("plan", f"{claim} is of plan {claim.plan}, whose bundle is missing")
        self._load(claim.plan, claim.window)
        if not self.answered(claim.total):
            self.stops.check(aggregator=claim.aggregator, group=claim.group, key=claim.key)
        failpoint("release.1.checked")
        if fresh:
            self.ledger.append(
                "decided",
                **_fields(claim.total),
                key=claim.key,
                aggregator=claim.aggregator,
                meters=claim.meters,
                members=claim.members.hex(),
                pieces=[list(piece) for piece in claim.pieces],
                content=claim.content.hex(),
            )
            self.policy.record(claim)
        failpoint("release.2.decided")
        body = self._body(claim.total)
        if body is None:
            if claim.key not in contexts:  # decided before a crash, and the key was retired afterwards
                raise ReleaseRefused("key", f"{claim} needs key {claim.key}, which is retired")
            body = self._decrypt(plan, claim, total.ciphertext).encode()
            failpoint("release.4.decrypted")
            self.answers.store(claim.total, body, self.ledger.head, self._versions())
            failpoint("release.5.stored")
            self._close_answer(claim.total, digest_of(body))
            failpoint("release.6.closed")
        answer = Answer.decode(body)
        if answer.refused:
            raise ReleaseRefused("inconsistent", answer.refused)
        self.policy.answer(claim, answer.given())
        return plan, answer

    def knows_plan(self, plan_id: str) -> bool:
        """Whether there is a bundle of this plan."""
        return plan_id in self._plans

    def answered(self, total: TotalKey) -> bool:
        """Whether this total has an answer."""
        return total in self._digests

    def answered_totals(self) -> list[TotalKey]:
        """Every answered total, by window, widest group first, name and part."""
        return sorted(
            self._digests,
            key=lambda total: (total.window, len(ancestors(total.group)), total.group, total.part),
        )

    def again(self, total: TotalKey) -> tuple[Plan, Claim, Answer]:
        """The plan, claim and stored answer of a released total. Raises StateError if there is none."""
        claim, body, plan = self.policy.decided(total), self._body(total), self._plans.get(total.plan)
        if claim is None or body is None or plan is None:
            raise StateError(
                f"there is no stored answer for {total}; restore answers.db and plans/ from a backup"
            )
        return plan, claim, Answer.decode(body)

    def _check_signature(self, total: Total) -> None:
        name = total.header.aggregator
        key = self._aggregators().get(name)
        if key is None:
            raise ReleaseRefused("signature", f"aggregator {name!r} is not enrolled")
        try:
            total.check_signature(key)
        except EnvelopeError as error:
            # The aggregator may have been enrolled again, with a new key, after the total arrived.
            if not any(total.is_signed_with(former) for former in self._former_keys().get(name, ())):
                raise ReleaseRefused("signature", str(error)) from None

    def _decrypt(self, plan: Plan, claim: Claim, ciphertext: bytes) -> Answer:
        """Do steps 3 and 4."""
        decryptor = self._decryptors.get(plan.plan_id)
        if decryptor is None:
            secrets = self._secrets()
            decryptor = Decryptor(plan, secrets.contexts[plan.key_id], secrets.noise_key)
            self._decryptors[plan.plan_id] = decryptor
        try:
            blocks = plan.layout.split(decryptor.decrypt(ciphertext))
            withheld = self.policy.withheld(
                claim, plan, {name: kinds["present"] for name, kinds in blocks.items()}
            )
        except EnvelopeError as error:
            return Answer(
                blocks={}, withheld={}, refused=f"{claim} is not a ciphertext of this plan: {error}"
            )
        except ReleaseRefused as refused:
            return Answer(blocks={}, withheld={}, refused=str(refused).removeprefix("inconsistent: "))
        return Answer.of(blocks, withheld)
