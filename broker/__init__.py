"""MQTT: `client` is a session with a broker, `server` runs and configures a broker."""
