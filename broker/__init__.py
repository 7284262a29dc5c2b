"""The MQTT contract: topics, envelope and receipt codecs, the session, and the broker's own files.

The codecs are pure: bytes in, records or EnvelopeError out. Only `session`, `reactor` and
`embedded` touch sockets and processes.
"""
