"""Forms of the core's rules in a framework. Nothing here knows a host; nothing in the core imports this."""
