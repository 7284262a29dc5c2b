"""P1 ports: DSMR 2.2 to ESMR 5, e-MUCS, HAN-P1 and their national forms, also encrypted."""

from gridhe.meter_agent.sources.p1.device import Settings, open_device

__all__ = ["Settings", "open_device"]
