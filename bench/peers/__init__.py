"""Alternatives to gridhe, one module each, all with the same interface."""
