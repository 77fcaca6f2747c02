"""Many videos: the job list (discover), the journal, the loop (captions). Finding files imports no model."""
