"""The meter's room: readings in, encrypted and sealed batches out, each kept until its receipt.

Sources give readings, windows gather them, sealing encrypts them, the outbox keeps them safe and
the agent decides what to publish when. Nothing here can decrypt.
"""
