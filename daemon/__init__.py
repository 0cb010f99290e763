"""The long-running process and its faces: configuration, ingestion, answers, the command line."""
