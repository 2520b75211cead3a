"""From sources through one model to sinks: what runs when, what is dropped, and what is known of it."""
