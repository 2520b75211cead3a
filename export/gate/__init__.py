"""Whether an exported file may be put in place: compared with its model, and scored."""
