"""Helpers for every room, independent of metering: commands, logs, files, locks, databases,
processes, tables, timings, failpoints."""
