"""The MQTT session: connects, reconnects and delivers messages. `loop` runs every callback."""
