"""Readings from files: CSV of many shapes, and XML exports. `read` opens a file and decides its format.

A format is described by settings (`format`); `known` names the exports of utilities and data sets. What is
not certain is refused with the setting that settles it; what cannot be read is set aside and counted.
"""
