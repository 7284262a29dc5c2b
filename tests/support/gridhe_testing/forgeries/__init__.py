"""Forged totals: everything that a broker, an aggregator and rogue meters can make out of ciphertexts."""
