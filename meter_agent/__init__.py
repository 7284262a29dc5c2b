"""The meter: reads samples, publishes encrypted and sealed batches, and keeps each until its receipt.

Sources give readings, windows collect them, sealing encrypts them, the outbox stores them and the agent
decides when to publish them. No module here can decrypt.
"""
