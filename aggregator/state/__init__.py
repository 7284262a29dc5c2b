"""The durable state in one database: totals, counted meters, the roster and the quarantine."""
