"""Whether the model still fits the road it sees: statistics, their threshold, and the frames to adapt to."""
