"""What an adaptation will take, found out by a rehearsal before anything long starts."""
