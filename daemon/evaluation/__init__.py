"""Measuring how well a memory finds and answers: `run.evaluate` is the story."""
