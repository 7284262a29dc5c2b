"""Precedence, and that whatever is wrong is refused in one clear line that says where it came from."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from annotated_types import Le, Lt, MaxLen
from hypothesis import given
from hypothesis import strategies as st

from gridhe.config import Settings, find_settings_file, load_settings
from gridhe.config.environment import VARIABLES, unused_variables, variable_name
from gridhe.config.load import load_section, setting_paths
from gridhe.config.settings import QuantitySettings
from gridhe.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "gridhe.yaml"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    file = tmp_path / "gridhe.yaml"

    def load(text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
        file.write_text(text, encoding="utf-8")
        overrides = {name.replace("__", "."): value for name, value in flags.items()}
        return load_settings(file, environ=environ or {}, overrides=overrides)

    return load


def refusal(load: Any, *args: Any, **flags: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        load(*args, **flags)
    return str(raised.value)


def test_the_shipped_file_equals_the_defaults() -> None:
    assert load_settings(SHIPPED, environ={}) == Settings()


def test_the_shipped_file_holds_every_setting() -> None:
    def paths(value: object, above: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
        items: list[tuple[str | int, object]] = []
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list):
            items = [(0, item) for item in value if isinstance(item, dict)]
        return {(*above, key) for key, _ in items}.union(
            *(paths(inner, (*above, key)) for key, inner in items)
        )

    assert paths(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))) == set(setting_paths())


def test_every_setting_of_the_shipped_file_has_a_comment_in_its_section() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    sections = text.split("\n\n")[1:]
    assert len(sections) == len(Settings.model_fields)
    for section in sections:
        lines = section.splitlines()
        assert sum("#" in line for line in lines) >= len(lines) / 2, lines[0]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "plan:\n", "plan: {}\nbroker:\n", "\ufeffplan:\n"]
)
def test_an_empty_file_or_section_is_the_defaults(load: Any, text: str) -> None:
    assert load(text) == Settings()


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(load: Any) -> None:
    file = "plan: {window_s: 1800, interval_s: 900, minimum_meters: 7}\n"
    environ = {"GRIDHE_PLAN__WINDOW_S": "3600", "GRIDHE_PLAN__INTERVAL_S": "1800"}
    plan = load(file, environ, plan__window_s=7200).plan
    assert (plan.window_s, plan.interval_s, plan.minimum_meters) == (7200, 1800, 7)
    assert plan.grace_s == Settings().plan.grace_s


def test_a_list_is_replaced_whole_and_one_item_is_reached_by_its_number(load: Any) -> None:
    file = "plan: {quantities: [{name: export_wh, largest: 9}, {name: power_w, unit: W}]}\n"
    environ = {"GRIDHE_PLAN__QUANTITIES__1__LARGEST": "5000"}
    first, second = load(file, environ, plan__quantities__0__bins=8).plan.quantities
    assert (first.name, first.unit, first.largest, first.bins) == ("export_wh", "Wh", 9, 8)
    assert (second.name, second.unit, second.largest, second.bins) == ("power_w", "W", 5000, 16)


def test_the_environment_takes_lists_and_whole_sections_as_yaml(load: Any) -> None:
    environ = {
        "GRIDHE_AGGREGATOR__FILTERS": "[gridhe/v1/batch/north/#, gridhe/v1/batch/south/#]",
        "GRIDHE_LOGGING": "{level: debug}",
        "GRIDHE_BROKER__URL": "mqtts://broker.example:8883",
        "GRIDHE_BROKER__CA_FILE": "",
    }
    settings = load("logging: {format: json}", environ)
    assert settings.aggregator.filters == ("gridhe/v1/batch/north/#", "gridhe/v1/batch/south/#")
    assert (settings.logging.level, settings.logging.format) == ("debug", "json")
    assert settings.broker.url == "mqtts://broker.example:8883"
    assert settings.broker.ca_file is None


def _leaves(
    annotation: object, metadata: tuple[object, ...] = ()
) -> Iterator[tuple[object, tuple[object, ...]]]:
    """(type, what bounds it) of every plain type in an annotation."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = (*metadata, *(each for one in more for each in getattr(one, "metadata", [one])))
    if get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _leaves(each, metadata)
    elif get_origin(annotation) is tuple:
        yield tuple, metadata
        yield from _leaves(get_args(annotation)[0])
    else:
        yield annotation, metadata


def test_repro_numbers_and_lists_without_an_upper_bound() -> None:
    sections = [each.annotation for each in Settings.model_fields.values()]
    unbounded = [
        f"{section.__name__}.{name}"
        for section in [*sections, QuantitySettings]
        for name, field in section.model_fields.items()
        for kind, metadata in _leaves(field.annotation, tuple(field.metadata))
        if (kind in (int, float) and not any(isinstance(each, Le | Lt) for each in metadata))
        or (kind is tuple and not any(isinstance(each, MaxLen) for each in metadata))
    ]
    assert unbounded == []


def test_every_setting_can_be_set_by_its_variable(load: Any) -> None:
    dump = Settings().model_dump(mode="json")
    for path in setting_paths():
        value: Any = dump
        for part in path:
            value = value[part]
        assert load("", {variable_name(path): yaml.safe_dump(value)}) == Settings(), path


def test_numbers_are_read_as_people_write_them(load: Any) -> None:
    plan = load("plan: {grace_s: 1e2, late_s: 3_600, horizon_s: 2.5E+3, minimum_meters: 0x10}").plan
    assert (plan.grace_s, plan.late_s, plan.horizon_s, plan.minimum_meters) == (100.0, 3600.0, 2500.0, 16)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("plan:\n  windw_s: 5\n", 2, "unknown setting plan.windw_s; did you mean plan.window_s?"),
        ("brokr: {}\n", 1, "unknown setting brokr; did you mean broker?"),
        ("\nminimum_meters: 5\n", 2, "unknown setting minimum_meters; did you mean plan.minimum_meters?"),
        ("logging: {xyzzy: 5}\n", 1, "unknown setting logging.xyzzy; known here: level, format"),
        ("logging: {<<: {level: info}}\n", 1, "unknown setting logging.<<; known here: level, format"),
        (
            "plan:\n  quantities:\n    - name: a\n      larges: 5\n",
            4,
            "unknown setting plan.quantities.0.larges; did you mean plan.quantities.0.largest?",
        ),
        ("plan:\n  interval_s: hour\n", 2, 'plan.interval_s: expected a valid integer, came "hour"'),
        ("plan: {late_s: 010}", 1, 'plan.late_s: expected a valid number, came "010"'),
        ("plan: {minimum_meters: true}", 1, "plan.minimum_meters: expected a valid integer, came true"),
        ("plan: {grace_s: -1}", 1, "plan.grace_s: expected greater than or equal to 0, came -1"),
        ("plan: {grace_s: .inf}", 1, 'plan.grace_s: expected a valid number, came ".inf"'),
        ("plan: {grace_s: 1:30}", 1, 'plan.grace_s: expected a valid number, came "1:30"'),
        ("broker: {insecure: yes}", 1, 'broker.insecure: expected a valid boolean, came "yes"'),
        ("broker: {url: 1883}", 1, "broker.url: expected a valid string, came 1883"),
        ("plan: 5", 1, "plan: expected keys and values, came 5"),
        ("plan: {largest_group: 2000}", 1, "plan: largest_rollup cannot be smaller than largest_group"),
        (
            "ckks:\n  ring_degree: 4096",
            2,
            "ckks: ring_degree and prime_bits go together: give both or neither",
        ),
    ],
)
def test_a_setting_that_is_wrong_in_the_file_is_named_with_its_line(
    load: Any, tmp_path: Path, text: str, line: int, expected: str
) -> None:
    assert refusal(load, text) == f"{expected} ({tmp_path / 'gridhe.yaml'}:{line})"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plan: {}\nplan: {}\n", ":2: plan is given twice (first on line 1)"),
        ("plan:\n  late_s: 2\n  late_s: 3\n", ":3: plan.late_s is given twice (first on line 2)"),
        ("- plan\n", " contains a list, expected sections such as `plan:` and `broker:`"),
        ("5: 1\n", ":1: a key must be text, such as `plan`"),
        ("plan: &a {x: *a}", ":1: an alias contains itself"),
        ("plan: {grace_s: 1e999}", ":1: not valid YAML: 1e999 is too large a number"),
        ("a: b: c", ":1: not valid YAML: mapping values are not allowed here"),
        ("plan: !!set {x}", ":1: the tag tag:yaml.org,2002:set is not allowed in settings"),
        ("plan: !!python/none ", ":1: the tag tag:yaml.org,2002:python/none is not allowed in settings"),
    ],
)
def test_what_is_no_settings_file_is_told_with_its_line(
    load: Any, tmp_path: Path, text: str, expected: str
) -> None:
    assert refusal(load, text) == f"{tmp_path / 'gridhe.yaml'}{expected}"


def bomb(width: int, depth: int, seed: str) -> str:
    """YAML of a few hundred bytes that stands for width^depth seeds."""
    lines = [f"a0: &a0 {seed}"]
    for level in range(1, depth):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("width", "depth", "seed"), [(10, 30, "x"), (10, 5, "x" * 900), (2, 200, "{}")])
def test_repro_aliases_cannot_make_a_small_file_large(
    load: Any, tmp_path: Path, width: int, depth: int, seed: str
) -> None:
    text = bomb(width, depth, seed)
    assert len(text) < 10_000
    said = refusal(load, text)
    assert said.startswith(f"{tmp_path / 'gridhe.yaml'}:")
    assert said.endswith("aliases repeat their anchors too often; write the values out")
    flat = "{" + text.strip().replace("\n", ", ") + "}"
    assert refusal(load, "", {"GRIDHE_PLAN": flat}).startswith("GRIDHE_PLAN:1: aliases")


def test_an_alias_that_saves_typing_is_fine(load: Any) -> None:
    text = "plan: {grace_s: &long 600, late_s: *long}\n"
    assert (load(text).plan.grace_s, load(text).plan.late_s) == (600, 600)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("GRIDHE_BROKER__ULR", "did you mean GRIDHE_BROKER__URL?"),
        ("GRIDHE_broker__url", "did you mean GRIDHE_BROKER__URL?"),
        ("GRIDHE_PLAN__WINDOW_S__X", "did you mean GRIDHE_PLAN__WINDOW_S?"),
        ("GRIDHE_Q__Q", "settings are GRIDHE_<SECTION>__<KEY>, see gridhe.yaml"),
    ],
)
def test_an_unknown_variable_is_refused_without_its_value(load: Any, variable: str, hint: str) -> None:
    assert refusal(load, "", {variable: "hunter2"}) == f"unknown environment variable {variable}; {hint}"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("GRIDHE_PLAN__WINDOW_S", "day", 'plan.window_s: expected a valid integer, came "day" ({})'),
        ("GRIDHE_LOGGING", "{foo: 1}", "unknown setting logging.foo; known here: level, format ({})"),
        ("GRIDHE_PLAN__QUANTITIES__3__NAME", "x", "plan.quantities.3: there is no such setting or item ({})"),
        ("GRIDHE_PLAN__WINDOW_S", "a: b: c", "{}:1: not valid YAML: mapping values are not allowed here"),
    ],
)
def test_a_variable_with_a_wrong_value_is_named(load: Any, variable: str, value: str, expected: str) -> None:
    assert refusal(load, "", {variable: value}) == expected.replace("{}", variable)


@pytest.mark.parametrize(
    "variable",
    [
        "GRIDHE_PORT",
        "GRIDHE_PORT_1883_TCP",
        "GRIDHE_PORT_1883_TCP_ADDR",
        "GRIDHE_NAME",
        "GRIDHE_BROKER_PORT",
        "GRIDHE_AGGREGATOR_PORT",
        "GRIDHE_AGGREGATOR_SERVICE_HOST",
        "GRIDHE_AGGREGATOR_SERVICE_PORT",
        "GRIDHE_AGGREGATOR_SERVICE_PORT_METRICS",
        "GRIDHE_BROKER_ENV_GRIDHE_BROKER__URL",
        "GRIDHE_BROKER_ENV_PATH",
    ],
)
def test_repro_a_containers_link_variable_is_no_setting_and_is_ignored_silently(
    load: Any, variable: str
) -> None:
    assert load("", {variable: "tcp://10.0.0.5:1883"}) == Settings()
    assert list(unused_variables({variable: "tcp://10.0.0.5:1883"}, setting_paths())) == []


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GRIDHE_BROKER_URL", "GRIDHE_BROKER__URL"),
        ("GRIDHE_PASPHRASE", "GRIDHE_PASSPHRASE"),
        ("GRIDHE_LOGGING_LEVEL", "GRIDHE_LOGGING__LEVEL"),
    ],
)
def test_a_variable_that_is_nearly_ours_is_reported_without_its_value(
    load: Any, variable: str, meant: str
) -> None:
    assert load("", {variable: "hunter2"}) == Settings()
    (line,) = unused_variables({variable: "hunter2", "GRIDHE_Q": "", "HOME": "/"}, setting_paths())
    assert line == f"the environment variable {variable} is not used; did you mean {meant}?"


def test_variables_that_are_no_settings_are_let_pass(load: Any) -> None:
    assert (
        load("", {"GRIDHE_CONFIG": "x", "GRIDHE_PASSPHRASE": "y", "GRIDHEX": "z", "PATH": "/"}) == Settings()
    )


def test_every_variable_that_the_code_reads_is_known() -> None:
    # One that is not would be refused by every command, as a typing mistake.
    root = SHIPPED.parents[1]
    rooms = ("aggregator", "bench", "broker", "config", "gridhe", "keyring", "meter_agent")
    code = "".join(file.read_text(encoding="utf-8") for room in rooms for file in (root / room).rglob("*.py"))
    named = set(re.findall(r"""["'](GRIDHE_[A-Z_]*[A-Z])["']""", code))
    assert "GRIDHE_PASSPHRASE" in named
    assert named <= {*VARIABLES, *map(variable_name, setting_paths())}


def test_what_is_wrong_in_a_flag_names_the_flag(load: Any) -> None:
    assert refusal(load, plan__window=5) == (
        "unknown setting plan.window; did you mean plan.window_s? (--set plan.window)"
    )
    assert refusal(load, plan__window_s__x=5) == (
        "plan.window_s.x: there is no such setting or item (--set plan.window_s.x)"
    )
    assert refusal(load, plan__grace_s=float("nan")).startswith("a setting is not a finite number")


def test_all_problems_are_reported_at_once(load: Any) -> None:
    lines = refusal(load, "plan: {window: 5}\n", {"GRIDHE_BROKER__KEEPALIVE_S": "1"}, logging__level="loud")
    assert [line.rsplit(" (", 1)[1] for line in lines.splitlines()] == [
        f"{load.__closure__[0].cell_contents}:1)",
        "GRIDHE_BROKER__KEEPALIVE_S)",
        "--set logging.level)",
    ]


def test_an_overridden_value_is_not_blamed_on_the_layer_below(load: Any) -> None:
    text = refusal(
        load, "plan:\n  quantities:\n    - {name: A}\n", {"GRIDHE_PLAN__QUANTITIES": "[{name: B}]"}
    )
    assert text.endswith('came "B" (GRIDHE_PLAN__QUANTITIES)')


def test_a_files_own_values_are_not_changed_by_what_is_laid_over_them() -> None:
    given_list = [{"name": "a", "largest": 5}]
    overrides = {"plan.quantities": given_list, "plan.quantities.0.largest": 9}
    assert load_settings(environ={}, overrides=overrides).plan.quantities[0].largest == 9
    assert given_list == [{"name": "a", "largest": 5}]


def test_the_file_is_the_argument_else_the_variable_else_the_working_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_settings_file(None, {}) == (None, "defaults")
    Path("gridhe.yaml").write_text("plan: {minimum_meters: 11}", encoding="utf-8")
    Path("other.yaml").write_text("plan: {minimum_meters: 12}", encoding="utf-8")
    Path("given.yaml").write_text("plan: {minimum_meters: 13}", encoding="utf-8")
    named = {"GRIDHE_CONFIG": "other.yaml"}
    assert load_settings(environ={}).plan.minimum_meters == 11
    assert load_settings(environ=named).plan.minimum_meters == 12
    assert load_settings(Path("given.yaml"), environ=named).plan.minimum_meters == 13


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*absent\.yaml: No such file"):
        load_settings(tmp_path / "absent.yaml", environ={})
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(tmp_path, environ={})
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 5\)"):
        load_settings(latin, environ={})
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="too large for a settings file"):
        load_settings(large, environ={})


@given(st.one_of(st.text(), st.text(alphabet="plan:{}[]!&*?-#'\" \n\t0123456789eE.xtrue~<", max_size=60)))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    for path in ("plan", "plan.window_s", "logging.level", "plan.quantities"):
        name = variable_name(tuple(path.split(".")))
        try:
            load_settings(environ={name: text})
        except ConfigError as error:
            refused = str(error)
        else:
            continue
        assert name in refused


# -- a section of others -----------------------------------------------------------------------------


def test_the_sources_settings_are_taken_as_they_are_with_their_origins(tmp_path: Path) -> None:
    file = tmp_path / "gridhe.yaml"
    file.write_text("source:\n  driver: p1\n  address: /dev/ttyUSB0\n  unit: 5\n", encoding="utf-8")
    environ = {"GRIDHE_SOURCE__DEVICE_ID": "0123", "GRIDHE_SOURCE__UNIT": "7"}
    section = load_section("source", file, environ=environ, overrides={"source.zone": "Europe/Helsinki"})
    assert section.values == {
        "driver": "p1",
        "address": "/dev/ttyUSB0",
        "unit": "7",  # text: the driver knows that it is a number
        "device_id": "0123",
        "zone": "Europe/Helsinki",
    }
    assert section.origins == {
        "driver": f"{file}:2",
        "address": f"{file}:3",
        "unit": "GRIDHE_SOURCE__UNIT",
        "device_id": "GRIDHE_SOURCE__DEVICE_ID",
        "zone": "--set source.zone",
    }
    assert load_settings(file, environ=environ).source.driver == "p1"


def test_a_source_that_is_no_section_is_refused(load: Any) -> None:
    assert refusal(load, "source: p1\n").startswith('source: expected keys and values, came "p1"')


def test_a_variable_deeper_in_the_source_is_refused(load: Any) -> None:
    said = refusal(load, "", {"GRIDHE_SOURCE__QUANTITIES__USE_WH": "imported"})
    assert said.startswith("unknown environment variable GRIDHE_SOURCE__QUANTITIES__USE_WH")
