"""One loaded SavedModel and what can be asked of it, whatever the transport."""
