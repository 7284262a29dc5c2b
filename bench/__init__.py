"""What encryption costs and how far the pipeline carries: suites, peers, timings, reports.

`suites` measure, `store` keeps one run's records (a file, or InfluxDB), `report` and `compare` read them
back. Nothing else imports this room.
"""
