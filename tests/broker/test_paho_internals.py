"""paho's private names that broker/client overrides or reads: where paho lacks one, this names it."""

import ast
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gridhe.broker.client import connection
from gridhe.broker.client.stream import Stream

CLIENT = Path(connection.__file__).parent
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

METHODS = {  # name -> its parameters
    "_create_socket": ["self"],  # overridden: the stream stands already
    "_handle_publish": ["self"],  # overridden: one copy of the payload
    "_send_puback": ["self", "mid"],  # called by our _handle_publish
}
ATTRIBUTES = {
    "_in_packet",  # read: the packet that has arrived, "command" and "packet"
    "_protocol",  # read: whether a PUBLISH has properties
}
SOCKET = {"recv", "send", "setblocking"}  # what paho calls on its socket, and a Stream therefore has
UNUSED_ON_A_SOCKET = {"pending"}  # only asked for in paho's own loop()


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _used() -> set[str]:
    """The private names of paho's client in broker/client: in our subclass, or on an instance of it."""
    names = set()
    for path in CLIENT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name == "_Client":
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute):
                        names.add(inner.attr)
                    elif isinstance(inner, ast.FunctionDef):
                        names.add(inner.name)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(
                ("_client", "client", "paho")
            ):
                names.add(node.attr)
    return {name for name in names if _private(name)}


def test_every_internal_of_paho_that_is_used_is_named_here() -> None:
    assert _used() == METHODS.keys() | ATTRIBUTES


@pytest.mark.parametrize("name", METHODS)
def test_paho_has_the_method_with_these_parameters(name: str) -> None:
    method = getattr(paho.Client, name, None)
    assert method is not None, f"paho {version('paho-mqtt')} has no Client.{name} any more"
    assert list(inspect.signature(method).parameters) == METHODS[name]


def test_paho_keeps_the_packet_and_the_version_where_they_are_read() -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    assert vars(client).keys() >= ATTRIBUTES
    assert client._protocol == MQTTProtocolVersion.MQTTv5
    assert isinstance(client._in_packet["command"], int)
    assert isinstance(client._in_packet["packet"], bytearray)


def test_paho_calls_its_handler_of_a_publish_and_its_maker_of_a_socket() -> None:
    calls = _calls_in_paho()
    assert {"_create_socket", "_handle_publish"} <= calls, "an override that nobody calls does nothing"


def test_a_stream_has_what_paho_calls_on_its_socket() -> None:
    tree = ast.parse(inspect.getsource(paho.Client))
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "self._sock"
    }
    assert called == SOCKET | UNUSED_ON_A_SOCKET
    assert all(callable(getattr(Stream, name, None)) for name in [*SOCKET, "fileno", "close"])


def _calls_in_paho() -> set[str]:
    return {
        node.func.attr
        for node in ast.walk(ast.parse(inspect.getsource(paho.Client)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "self"
    }


def test_paho_is_pinned_to_the_minor_version_whose_internals_these_are() -> None:
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert "paho-mqtt>=2.2,<2.3" in wanted
    assert version("paho-mqtt").startswith("2.2.")
