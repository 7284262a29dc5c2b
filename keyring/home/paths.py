"""The authority's home: one folder (0700) with all files of the authority.

vault           secrets, encrypted (gridhe.keyring.home.vault)
authority.pub   the authority's verify key, hex
plans/          signed bundles, one file a plan: <plan id>.bundle
enrolment.db    enrolled meters and aggregators (gridhe.keyring.home.enrolment)
credentials/    credentials from enrolment; give them to their owners and delete them here
broker/         mosquitto.conf, gridhe.conf, acl, passwords: written anew by every enrolment
inbox.db        totals that arrived (gridhe.keyring.release.inbox)
inbox.commits   a second copy of its transaction count
ledger.jsonl    every decision to release (gridhe.keyring.release.ledger)
answers.db      released integers (gridhe.keyring.release.answers)
"""

from pathlib import Path

from gridhe.errors import StateError
from gridhe.plan.plan import Plan
from gridhe.wire.bundle import Bundle

__all__ = ["HomePaths"]


class HomePaths:
    """The paths of the files in a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.vault = home / "vault"
        self.verify_key = home / "authority.pub"
        self.plans = home / "plans"
        self.enrolment = home / "enrolment.db"
        self.credentials = home / "credentials"
        self.operator_password = self.credentials / "operator.password"
        self.broker = home / "broker"
        self.inbox = home / "inbox.db"
        self.ledger = home / "ledger.jsonl"
        self.answers = home / "answers.db"

    def read_verify_key(self) -> bytes:
        """The authority's verify key. Raises StateError if this is not a home."""
        try:
            key = bytes.fromhex(self.verify_key.read_text().strip())
        except (OSError, ValueError):
            key = b""
        if len(key) != 32:
            raise StateError(
                f"{self.home} is not an authority's home; make one with: gridhe-keyring init --home DIR"
            )
        return key

    def read_bundles(self) -> dict[str, tuple[Bundle, bytes]]:
        """(bundle, its signed bytes) by plan id, earliest first. Raises BundleError, StateError."""
        key = self.read_verify_key()
        bundles: dict[str, tuple[Bundle, bytes]] = {}
        try:
            for path in sorted(self.plans.glob("*.bundle")):
                data = path.read_bytes()
                bundle = Bundle.decode(data, key)
                bundles[bundle.plan.plan_id] = bundle, data
        except OSError as error:
            raise StateError(f"cannot read {self.plans}: {error.strerror or error}") from None
        return dict(sorted(bundles.items(), key=lambda item: item[1][0].plan.start_s))

    def read_plans(self) -> dict[str, Plan]:
        """Every plan by its id, earliest first. Raises BundleError, StateError."""
        return {plan_id: bundle.plan for plan_id, (bundle, _) in self.read_bundles().items()}
