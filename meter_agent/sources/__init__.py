"""Sources of readings: `synthetic`, `replay`, and the protocols for device drivers."""
