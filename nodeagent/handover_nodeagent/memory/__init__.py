"""What survives a SIGKILL: what a file says (pure), and the files themselves."""
