"""The drivers that there are. A driver's module is imported when it is used, so none costs a meter anything.

A driver's module has `Settings`, a model of its settings (`gridhe.meter_agent.sources.settings`), and
`open_device(settings) -> Device`. It may have `notes() -> list[str]`: lines for `gridhe-meter sources NAME`,
such as its register maps.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridhe.errors import SourceError

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.driver import Device
    from gridhe.meter_agent.sources.settings import SourceSettings

__all__ = ["DRIVERS", "Driver", "driver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One kind of device."""

    name: str
    summary: str  # the devices, in one line
    needs: str  # what an installer has to have: a cable, a broker, an address
    example: str  # settings that work, as after `probe NAME`
    modules: tuple[str, ...] = ()  # packages that it imports beyond gridhe's own requirements
    extra: str | None = None  # the extra that installs them: pip install 'gridhe[serial]'

    def missing(self) -> list[str]:
        """The packages of `modules` that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]

    def _module(self) -> Any:
        missing = self.missing()
        if missing:
            raise SourceError(
                f"source {self.name} needs {', '.join(missing)}: pip install 'gridhe[{self.extra}]'"
            )
        return importlib.import_module(f"gridhe.meter_agent.sources.{self.name}")

    def settings(self) -> "type[SourceSettings]":
        """The model of its settings. Raises SourceError if a package is missing."""
        model: type[SourceSettings] = self._module().Settings
        return model

    def notes(self) -> list[str]:
        """What else an installer may choose from, such as register maps: one line each."""
        notes: list[str] = getattr(self._module(), "notes", list)()
        return notes

    def open_device(self, settings: "SourceSettings") -> "Device":
        """The device of these settings. Raises SourceError."""
        device: Device = self._module().open_device(settings)
        return device


DRIVERS = (
    Driver(
        name="p1",
        summary="DSMR and ESMR P1 ports (Netherlands, Belgium, Luxembourg, Sweden, Austria, ...)",
        needs="a P1 cable, or a gateway's TCP port",
        example="address=/dev/ttyUSB0",
        modules=("serial",),
        extra="serial",
    ),
    Driver(
        name="sml",
        summary="German meters that push SML (EMH, Iskra, Itron, Holley, DZG, eBZ, EasyMeter, ...)",
        needs="an optical head, and for most meters the PIN entered at the meter",
        example="address=/dev/serial/by-path/platform-usb-0:1.2:1.0-port0",
        modules=("serial",),
        extra="serial",
    ),
    Driver(
        name="d0",
        summary="IEC 62056-21 optical ports, modes A, C and D",
        needs="an optical head that can send",
        example="address=/dev/ttyUSB0 mode=C",
        modules=("serial",),
        extra="serial",
    ),
    Driver(
        name="han",
        summary="DLMS push over HDLC or M-Bus (Kaifa, Aidon, Kamstrup, Landis+Gyr, Iskraemeco, Sagemcom)",
        needs="a HAN or M-Bus adapter; an encrypted meter also needs its key in a 0600 file",
        example="address=/dev/ttyUSB0 profile=auto",
        modules=("serial",),
        extra="serial",
    ),
    Driver(
        name="tic",
        summary="Linky's customer port (TIC), historique and standard",
        needs="a TIC adapter",
        example="address=/dev/ttyAMA0 mode=standard",
        modules=("serial",),
        extra="serial",
    ),
    Driver(
        name="modbus",
        summary="Modbus RTU and TCP meters (Eastron, Carlo Gavazzi, ABB, Schneider, SunSpec, your own map)",
        needs="an RS-485 adapter or the meter's TCP address, and the meter's unit number",
        example="address=/dev/ttyUSB0 map=eastron_sdm630 unit=1",
        modules=("pymodbus", "serial"),
        extra="modbus",
    ),
    Driver(
        name="mqtt",
        summary="devices that publish to an MQTT broker (Tasmota, Shelly, zigbee2mqtt, ESPHome, any JSON)",
        needs="the address of the home's broker and the device's topic",
        example="address=mqtt://127.0.0.1:1883 format=tasmota topic=tele/plug/SENSOR",
    ),
    Driver(
        name="homewizard",
        summary="HomeWizard P1 and energy sockets over their local HTTP interface",
        needs="the device's address and its local API switched on",
        example="address=http://192.168.1.20",
        modules=("aiohttp",),
        extra="http",
    ),
)


def driver(name: str) -> Driver:
    """The driver of this name. Raises SourceError with the names that there are."""
    for each in DRIVERS:
        if each.name == name:
            return each
    raise SourceError(
        f"there is no source {name!r}; there are synthetic, replay, "
        f"{', '.join(each.name for each in DRIVERS)} (gridhe-meter sources tells more)"
    )
