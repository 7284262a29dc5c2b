"""The MQTT session: connects, stays connected, and hands over messages. `loop` runs every callback."""
