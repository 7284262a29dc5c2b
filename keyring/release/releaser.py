"""Releasing one total, so that a crash at any moment neither loses an answer nor draws noise twice.

    1. check      signature, policy (gridhe.keyring.release.policy), stops (gridhe.keyring.release.stops) and
                  member lists (gridhe.keyring.release.register); a refusal goes to the ledger
    2. decide     write the member lists to answers.db, then the decision to the ledger, on the disk
    3. decrypt    with all checks, noise and rounding (gridhe.keyring.release.decrypt). If a check fails,
                  write `unsound` to the ledger, and end. The answers of a wider total whose pieces were all
                  opened completely are added up instead
    4. withhold   intervals that would isolate too few meters, or whose numbers contradict each other
    5. store      write the answer and the guard sums to answers.db, on the disk
    6. close      write the answer's digest to the ledger
    7. give       append one line to the `--out` file, on the disk; before this step no integer is shown
    8. mark       store in answers.db that the file has the line; then print the line to stdout
    9. settle     mark the total as released in the inbox, and delete its bytes
   10. publish    on release/<group>, until the broker acknowledges it (gridhe.keyring.release.publisher)

This module does 1 to 6, gridhe.keyring.release.released_lines 7 and 8, gridhe.keyring.release.queue 9.

A crash leaves, before 2: nothing. In 2: member lists that do not count, because no decision has their
digest. After 2: the total counts in the budget and for every later decision, and the next request for it
continues at 3; the noise is a function of the ciphertext, so decrypting again gives the same integers, or
fails the same check, and none of the integers was shown. After 5: the next start adds the digest, and a
request gets the stored answer. After 6: the next start continues at 7, because the answer has no mark. In 7:
a torn last line is cut off and written again; a complete one is only marked. After 8: the total is still
waiting in the inbox, so it is tried again, gets the stored answer and no second line. After 9: each start
publishes the newest window of each group again. A full disk at any step has the effect of such a crash.

If a stored answer does not match its digest, the program stops. It also stops if a file of the home is older
than the others (gridhe.keyring.release.consistency).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.base.failpoints import failpoint
from gridhe.config.settings import ReleaseSettings
from gridhe.errors import EnvelopeError, ReleaseRefused, StateError
from gridhe.keyring.home.enrolment import Enrolment
from gridhe.keyring.home.paths import HomePaths
from gridhe.keyring.home.vault import Secrets
from gridhe.keyring.release.answers import Answer, Answers, digest_of
from gridhe.keyring.release.claims import claim_of, claim_of_record, fields_of, key_of, total_of_record
from gridhe.keyring.release.coverage import check_coverage
from gridhe.keyring.release.decrypt import Unsound
from gridhe.keyring.release.family import PieceKey
from gridhe.keyring.release.ledger import START, Head, Ledger, LedgerRecord
from gridhe.keyring.release.opening import Opener
from gridhe.keyring.release.pieces import Pieces
from gridhe.keyring.release.policy import Claim, ReleasePolicy
from gridhe.keyring.release.register import Members, Register, own_piece
from gridhe.keyring.release.statistics import inconsistent
from gridhe.keyring.release.stops import Failure, Stops
from gridhe.keyring.release.stored_lists import StoredLists
from gridhe.plan.names import ancestors
from gridhe.plan.plan import Plan
from gridhe.wire.planes import Planes
from gridhe.wire.strands import strand_key, strand_of
from gridhe.wire.total import Total, TotalKey

__all__ = ["Releaser"]

_log = logging.getLogger(__name__)


class Releaser:
    """Releases totals by the policy. The ledger's lock ensures that no other process writes its files."""

    def __init__(
        self,
        paths: HomePaths,
        *,
        plans: Mapping[str, Plan],
        secrets: Callable[[], Secrets],
        enrolment: Enrolment,
        settings: ReleaseSettings,
        now: Callable[[], str],
        inbox_head: Head = START,
        versions: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Open ledger and answers and bring them up to date. Raises StateError.

        `plans` (by id), the enrolment and the results of the callables may change later. `now` returns the
        ISO time, `versions` the versions of the home's other files, which are stored with each answer.
        `inbox_head` is the inbox's copy of the ledger's head.
        """
        self._versions, self._now = versions, now
        self._plans, self._secrets, self._enrolment = plans, secrets, enrolment
        self.policy = ReleasePolicy(plans=plans, minimum_meters=settings.minimum_meters)
        self.stops = Stops()
        self._opener, self._coverage = Opener(secrets), settings.coverage
        self._digests: dict[TotalKey, str] = {}
        self._refusals: dict[TotalKey, str] = {}  # the last one in the ledger, so that a retry adds no line
        self._unloaded: dict[
            tuple[str, int], list[TotalKey]
        ] = {}  # answers of earlier runs, by plan and window
        self.answers = Answers(paths.answers)
        self._lists = StoredLists(self.answers, enrolment)
        key = strand_key(secrets().ingest_secret)
        self.register = Register(self._lists.load, lambda meter, window: strand_of(key, meter, window))
        self._pieces = Pieces(self.answers, self.register, self._opener, self._body)
        try:
            heads = {paths.answers.name: self.answers.head(), paths.inbox.name: inbox_head}
            self.ledger = Ledger(paths.ledger, now=now, on_record=self._replay, heads=heads)
        except BaseException:
            self.answers.close()
            raise
        try:
            self._lists.check(self.register.totals(), self.ledger.path)
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
            self.register.record(claim)
        elif record["kind"] == "unsound":
            failed = self.policy.decided(total_of_record(record))
            if failed is not None:
                self.register.fail(failed)
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
        self._write("answered", **key_of(total), answer=digest)
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
                self.policy.answer(claim, Answer.decode(body).given())

    def release(self, total: Total) -> tuple[Plan, Claim, Answer]:
        """Do steps 1 to 6; return plan, claim and answer. Raises ReleaseRefused, StateError."""
        try:
            return self._release(total)
        except ReleaseRefused as refused:
            header = total.header
            key = TotalKey(header.plan, header.group, header.window, header.part)
            if refused.rule != "unsound" and self._refusals.get(key) != str(refused):
                self.ledger.append("refused", **key_of(key), rule=refused.rule, refusal=str(refused))
                self._refusals[key] = str(refused)
            raise

    def drop_retired_keys(self) -> None:
        """Delete from memory every secret key that is no longer in the vault."""
        self._opener.forget(self._plans.values())

    def resume(self, name: str) -> None:
        """Resume what is stopped under this name, if anything. Raises StateError."""
        for kind in self.stops.kinds(name):
            self._write("resumed", **{kind: name})

    def note_dropped(self, reasons: Mapping[str, int]) -> None:
        """Record in the ledger how many totals were dropped for each reason. Raises StateError."""
        self.ledger.append("dropped", reasons=dict(sorted(reasons.items())))

    def _release(self, total: Total) -> tuple[Plan, Claim, Answer]:
        self._check_signature(total)
        plan = self._plans.get(total.header.plan)
        lists, fault = self._lists.read(total.header, plan)
        claim = claim_of(total, plan, lists)
        contexts = self._secrets().contexts
        fresh = self.policy.decide(claim, plan, key_held=claim.key in contexts)
        if plan is None:
            raise ReleaseRefused("plan", f"{claim} is of plan {claim.plan}, whose bundle is missing")
        if claim.total in self.stops.failed:
            raise _unsound(claim)
        self._load(claim.plan, claim.window)
        if not self.answered(claim.total):
            self.stops.check(aggregator=claim.aggregator, group=claim.group, key=claim.key)
        if fresh:
            if fault is not None:
                raise fault
            self._check_new(total, plan, claim, lists)
            failpoint("release.1.checked")
            self._decide(total, claim, lists)
        failpoint("release.2.decided")
        body = self._body(claim.total)
        if body is None:
            if claim.key not in contexts:  # decided before a crash, and the key was retired afterwards
                raise ReleaseRefused("key", f"{claim} needs key {claim.key}, which is retired")
            answer, sums = self._open(plan, claim, total.ciphertext)
            body = answer.encode()
            failpoint("release.4.decrypted")
            self.answers.store(claim.total, body, self.ledger.head, self._versions(), sums)
            failpoint("release.5.stored")
            self._close_answer(claim.total, digest_of(body))
            failpoint("release.6.closed")
            _log.info(
                "released", extra={**key_of(claim.total), "meters": claim.meters, "expected": answer.expected}
            )
        answer = Answer.decode(body)
        self.policy.answer(claim, answer.given())
        return plan, claim, answer

    def _check_new(self, total: Total, plan: Plan, claim: Claim, lists: Mapping[PieceKey, Members]) -> None:
        """The checks of a total that was not decided, after the policy's."""
        try:
            planes = Planes(plan.parameters)
            planes.check(planes.views(total.ciphertext))
        except EnvelopeError as error:
            raise ReleaseRefused("ciphertext", f"{claim} is not a ciphertext of its plan: {error}") from None
        self.register.check(
            claim, lists, opened=self.answered, overlapping=self.policy.overlapping(claim, plan)
        )
        own = own_piece(claim)
        if own is not None and self.register.failed_part(claim, lists) is None:
            enrolled = self._enrolment.enrolled(claim.group, plan.window_start_s(claim.window))
            check_coverage(*own, meters=claim.meters, enrolled=enrolled, share=self._coverage)

    def _decide(self, total: Total, claim: Claim, lists: Mapping[PieceKey, Members]) -> None:
        """Step 2."""
        period = claim.plan, claim.window
        new = [
            piece
            for piece in total.header.pieces
            if self.register.digest(period, (piece.group, piece.part)) is None
        ]
        self.answers.store_lists(*period, total.header.roster, new, self.ledger.head)
        failpoint("release.2.listed")
        self.ledger.append("decided", **fields_of(claim))
        self.policy.record(claim)
        self.register.add(claim, lists)

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
        key = {each.name: each.verify_key for each in self._enrolment.aggregators()}.get(name)
        if key is None:
            raise ReleaseRefused("signature", f"aggregator {name!r} is not enrolled")
        try:
            total.check_signature(key)
        except EnvelopeError as error:
            # The aggregator may have been enrolled again, with a new key, after the total arrived.
            former = self._enrolment.former_keys().get(name, ())
            if not any(total.is_signed_with(each) for each in former):
                raise ReleaseRefused("signature", str(error)) from None

    def _open(self, plan: Plan, claim: Claim, ciphertext: bytes) -> tuple[Answer, dict[PieceKey, bytes]]:
        """Do steps 3 and 4; return the answer, and the guard sums to store. Raises ReleaseRefused."""
        new: dict[PieceKey, bytes] = {}
        blocks = self._pieces.added_up(plan, claim)
        if blocks is None:
            values, new = self._decrypted(plan, claim, ciphertext)
            if isinstance(values, Unsound):
                self._fail(plan, claim, values)
                raise _unsound(claim)
            blocks = plan.layout.split(values)
        present = {name: kinds["present"] for name, kinds in blocks.items()}  # the proven counts
        withheld = self.policy.withheld(claim, plan, present)
        impossible = inconsistent(plan, blocks)
        reasons = {
            name: [
                reason or ("inconsistent" if wrong else "")
                for reason, wrong in zip(withheld[name], impossible[name], strict=True)
            ]
            for name in blocks
        }
        expected = self._enrolment.enrolled(claim.group, plan.window_start_s(claim.window))
        return Answer.of(blocks, reasons, expected=expected), new

    def _decrypted(
        self, plan: Plan, claim: Claim, ciphertext: bytes
    ) -> tuple[NDArray[np.int64] | Unsound, dict[PieceKey, bytes]]:
        """The used slots int64[used], or the failed check; and the guard sums to store.

        The failure is returned instead of raised, so that no exception carries it. Stored guard sums have no
        digest in the ledger, unlike lists: before a total fails by them, they are computed again.
        """
        for stored in (True, False):
            sums, new = self._pieces.sums(plan, claim, stored=stored)
            try:
                return self._opener.open(plan, claim.window, ciphertext, sums), new
            except Unsound as unsound:
                failed = unsound
            if len(new) == len(claim.pieces):  # no stored sum was used
                break
        return failed, new

    def _fail(self, plan: Plan, claim: Claim, unsound: Unsound) -> None:
        """Write a failed check to the ledger, with the suspects."""
        lists = self.register.lists((claim.plan, claim.window))
        own = lists.get((claim.group, claim.part))
        failed_part = self.register.failed_part(claim, lists)
        finding = self._opener.suspects(plan, claim, lists, unsound)
        failure = Failure(
            total=claim.total,
            key=claim.key,
            aggregator=claim.aggregator,
            check=unsound.check,
            of=claim.part if failed_part is None else failed_part,
            finding=finding,
            members=own.names if own is not None else (),
        )
        start_s = plan.window_start_s(claim.window)
        enrolled = {each.group: self._enrolment.enrolled(each.group, start_s) for each in finding.suspects}
        failpoint("release.3.judged")
        self._write("unsound", **self.stops.fields(failure, at=self._now(), enrolled=enrolled))
        self.register.fail(claim)
        _log.error(
            "ALARM: a total failed its checks",
            extra={
                "total": str(failure),
                "check": unsound.check,
                "suspects": list(map(str, finding.suspects)),
            },
        )
        failpoint("release.3.unsound")


def _unsound(claim: Claim) -> ReleaseRefused:
    return ReleaseRefused(
        "unsound", f"{claim} is not the sum of the batches that it names; the ledger has the failed check"
    )
