"""The aggregator: folds ciphertexts it cannot read into totals, exactly once, and publishes them.

`fold` is pure, `state` is on disk, `engine` joins the two without a socket or a clock, `service` is the
process behind `gridhe-aggregate`. Nothing here can decrypt; nothing here imports TenSEAL.
"""
