"""The aggregator: adds ciphertexts that it cannot decrypt into totals, exactly once, and publishes them.

`fold` is pure, `state` is on disk, `engine` joins the two without a socket or a clock, `service` is the
process behind `gridhe-aggregate`. No module here can decrypt or imports TenSEAL.
"""
