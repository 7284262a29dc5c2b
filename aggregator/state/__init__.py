"""What survives a crash: totals, counted meters, the enrolment list and the quarantine, in one database."""
