"""The MQTT broker, from both sides: `client` is our session with it, `server` runs and configures it."""
