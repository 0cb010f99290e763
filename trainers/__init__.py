"""Learning: examples, LoRA training, evaluation, the gate. Knows the store's types, not its tables."""
