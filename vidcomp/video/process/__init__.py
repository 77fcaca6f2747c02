"""The child process in which videos are decoded, and the memory that it shares with this one."""
