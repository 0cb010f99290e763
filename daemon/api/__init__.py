"""HTTP: what can be asked of a running daemon, over a Unix socket and, if set, a loopback port."""
