"""What any room may use and that knows nothing of metering: commands, logs, files, locks,
databases, processes, tables, timings, failpoints."""
