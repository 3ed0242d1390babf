"""What an answer may be, as token-state machines."""
