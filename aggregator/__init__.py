"""The aggregator: folds ciphertexts it cannot read into totals, exactly once, and publishes them.

`engine` is the pure core (no socket, no clock of its own), `store` its durable state, `service`
the process behind `gridhe-aggregate`. Nothing here can decrypt; nothing here imports TenSEAL.
"""
