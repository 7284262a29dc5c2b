"""The broker itself: the embedded one, Mosquitto's configuration, its users and their access rules."""
