"""Adds ciphertexts into parts and decides when each part closes. Pure: no socket, clock or disk."""
