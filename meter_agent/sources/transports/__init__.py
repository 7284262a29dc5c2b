"""Transports: a serial line, a TCP connection, and the loop that keeps one of them open for a decoder."""
