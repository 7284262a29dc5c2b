"""`gridhe doctor`: checks of this machine and this configuration, and live probes of a broker."""
