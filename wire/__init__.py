"""Every record that one role writes and another reads: bytes in, records out, or a named error.

Pure and shared by every role. docs/wire.md describes each record byte for byte.
"""
