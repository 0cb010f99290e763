"""The versioned memory. Knows nothing of files, daemons or training."""
