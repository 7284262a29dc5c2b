"""Where readings come from: `synthetic`, `replay`, and the protocols that a device driver follows."""
