"""`gridhe doctor`: checks of this machine and its configuration, and live probes of a broker."""
