"""The embedded broker, and Mosquitto's configuration, users and access rules."""
