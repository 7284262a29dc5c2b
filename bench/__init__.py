"""Measures the cost of encryption and the throughput of the pipeline: suites, peers, timings, reports.

`suites` measure, `store` keeps the records of runs (in files or InfluxDB), `report` and `compare` read them.
No other package imports this one.
"""
