"""What a run measures and never learns from: scores on labelled images, and what became of pseudo labels."""
