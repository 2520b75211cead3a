"""Steps run safely: loop, checkpoints, several processes, precision, memory, the run folder, progress."""
