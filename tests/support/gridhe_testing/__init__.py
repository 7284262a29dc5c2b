"""Helpers for tests: small grids with real keys, commands and clocks."""
