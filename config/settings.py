"""Every number that a user may change: typed, with its unit, its bounds and its reason.

Defaults are here; `gridhe.yaml` repeats them with comments, and a test checks that the two are equal.
Unknown keys are refused everywhere.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AggregatorSettings",
    "BrokerSettings",
    "CkksSettings",
    "LoggingSettings",
    "MeterSettings",
    "PlanSettings",
    "QuantitySettings",
    "ReleaseSettings",
    "Settings",
    "SourceSection",
    "Statistic",
]

Statistic = Literal["sum", "mean", "variance", "min", "max", "quantiles"]
Preset = Literal["auto", "light", "medium", "strong", "maximum"]
ReadingPolicy = Literal["missing", "clip", "refuse"]


class _Section(BaseModel):
    """A section of the settings: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CkksSettings(_Section):
    """How readings are encrypted. With `preset: auto` the planner chooses the smallest exact ring."""

    preset: Preset = "auto"
    ring_degree: Literal[2048, 4096, 8192, 16384, 32768] | None = None
    prime_bits: tuple[Annotated[int, Field(ge=14, le=60)], ...] | None = Field(None, max_length=62)
    flooding_bits: int = Field(40, ge=0, le=64)  # statistical security of released totals; 0: no flooding
    decryptions: int = Field(2**18, ge=1, le=2**40)  # totals released under one key: its query budget

    @model_validator(mode="after")
    def _ring_is_whole(self) -> "CkksSettings":
        if (self.ring_degree is None) != (self.prime_bits is None):
            raise ValueError("ring_degree and prime_bits go together: give both or neither")
        return self


class QuantitySettings(_Section):
    """A measured quantity: an integer per interval, 0 to `largest`."""

    name: str = Field("import_wh", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    unit: str = Field("Wh", min_length=1, max_length=16)
    largest: int = Field(20_000, ge=1, le=2**32)
    statistics: tuple[Statistic, ...] = Field(
        ("sum", "mean", "variance", "min", "max", "quantiles"), max_length=6
    )
    bins: int = Field(16, ge=2, le=1024)  # equal bins over 0..largest, if bin_edges is not given
    # Edges: from 0 to largest + 1, rising; bin i is [edge i, edge i+1)
    bin_edges: tuple[Annotated[int, Field(ge=0, le=2**32 + 1)], ...] | None = Field(None, max_length=1_025)


class PlanSettings(_Section):
    """What is collected. `gridhe-keyring init` and `rotate` turn this into a signed plan."""

    window_s: int = Field(86_400, ge=1, le=31 * 86_400)
    interval_s: int = Field(3_600, ge=1, le=86_400)
    quantities: tuple[QuantitySettings, ...] = Field((QuantitySettings(),), min_length=1, max_length=16)
    largest_group: int = Field(1_000, ge=1, le=10_000_000)  # meters in one group
    largest_rollup: int = Field(1_000, ge=1, le=10_000_000)  # meters in the widest roll-up (`grid`)
    minimum_meters: int = Field(10, ge=2, le=1_000_000)  # fewer are never released
    # A smaller minimum than 10 (with variance) or 5: totals of so few can determine readings
    small_groups: Literal["refused", "accepted"] = "refused"
    grace_s: float = Field(300.0, ge=0, le=31 * 86_400)  # wait for absent meters, after the window's end
    late_s: float = Field(3_600.0, ge=0, le=31 * 86_400)  # a part of late batches closes after this long
    early_s: float = Field(60.0, ge=0, le=86_400)  # a window may end this far ahead of the aggregator's clock
    horizon_s: float = Field(
        400 * 86_400.0, ge=0, le=50 * 365 * 86_400
    )  # older windows are refused as `late`

    @model_validator(mode="after")
    def _whole_intervals(self) -> "PlanSettings":
        if self.window_s % self.interval_s:
            raise ValueError("window_s must be a whole number of intervals (a multiple of interval_s)")
        if self.largest_rollup < self.largest_group:
            raise ValueError("largest_rollup cannot be smaller than largest_group")
        names = [quantity.name for quantity in self.quantities]
        if len(set(names)) != len(names):
            raise ValueError("quantities must have different names")
        return self


class SourceSection(_Section):
    """The source of a meter's readings, and its settings: those of its driver, which checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    driver: str | None = Field(None, max_length=32)  # for gridhe-meter run without --source


class MeterSettings(_Section):
    """How a meter agent behaves."""

    on_negative: ReadingPolicy = "missing"
    on_too_large: ReadingPolicy = "clip"
    on_text: Literal["missing", "refuse"] = "missing"
    outbox_max_batches: int = Field(
        10_000, ge=1, le=10_000_000
    )  # per device; about 96 KB each at the default plan
    outbox_when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest"
    moved: Literal["reseal", "set_aside"] = "reseal"  # for batches sealed for the meter's previous group
    unreceipted_max: int = Field(8, ge=1, le=1_000)  # batches published and not yet receipted, per meter
    resend_s: float = Field(15.0, gt=0, le=86_400)  # first wait before publishing again; doubles, with jitter
    resend_max_s: float = Field(900.0, gt=0, le=86_400)
    journal_s: float = Field(
        300.0, ge=0, le=3_600
    )  # longest time that a device's readings are in memory only


class BrokerSettings(_Section):
    """The broker's address, and how to connect to it."""

    url: str = "mqtt://127.0.0.1:1883"  # mqtt:// or mqtts://, host, port
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    insecure: bool = False  # allow mqtt:// to a host that is not loopback
    client_certificates: bool = False  # generated mosquitto.conf: certificates instead of passwords
    protocol: Literal["auto", 5, "3.1.1"] = "auto"  # auto: MQTT 5, then 3.1.1 if the broker refuses 5
    server_dir: str | None = Field(None, pattern="^/")  # generated mosquitto.conf: its folder at the broker
    keepalive_s: int = Field(60, ge=5, le=3_600)
    session_expiry_s: int = Field(7 * 86_400, ge=0, le=2**32 - 1)
    connect_timeout_s: float = Field(10.0, gt=0, le=300)
    reconnect_min_s: float = Field(0.5, gt=0, le=3_600)
    reconnect_max_s: float = Field(8.0, gt=0, le=3_600)  # connected within 10 s after the network is back
    receive_maximum: int = Field(500, ge=1, le=65_535)
    max_queued_mb: int = Field(
        1_024, ge=1, le=2**20
    )  # generated mosquitto.conf: bytes queued for a slow client


class AggregatorSettings(_Section):
    """How `gridhe-aggregate` folds, commits and closes."""

    filters: tuple[str, ...] = Field(("gridhe/v1/batch/#",), max_length=10_000)
    commit_interval_s: float = Field(1.0, gt=0, le=60)
    commit_interval_max_s: float = Field(10.0, gt=0, le=600)  # longest, while many totals change
    open_totals_mb: int = Field(256, ge=1, le=2**20)  # running totals in memory; the others are on disk
    quarantine_max: int = Field(1_000, ge=0, le=10_000_000)  # rejected payloads kept for inspection
    quarantine_max_mb: int = Field(64, ge=0, le=2**20)
    redeliver_s: float = Field(30.0, gt=0, le=86_400)  # publish a closed total again without a receipt


class ReleaseSettings(_Section):
    """The authority's release policy, in addition to the plan's."""

    minimum_meters: int | None = Field(None, ge=2, le=1_000_000)  # larger than the plan's; smaller: no effect
    coverage: float = Field(0.5, ge=0, le=1)  # share of a leaf group's meters that its own total needs
    publish: bool = False  # also publish released integers on release/<group>
    quantile_probabilities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.05, 0.25, 0.5, 0.75, 0.95), max_length=1_000
    )


class LoggingSettings(_Section):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"  # auto: text on a terminal, else JSON lines


class Settings(_Section):
    """All settings."""

    ckks: CkksSettings = CkksSettings()
    plan: PlanSettings = PlanSettings()
    meter: MeterSettings = MeterSettings()
    source: SourceSection = SourceSection()
    broker: BrokerSettings = BrokerSettings()
    aggregator: AggregatorSettings = AggregatorSettings()
    release: ReleaseSettings = ReleaseSettings()
    logging: LoggingSettings = LoggingSettings()
