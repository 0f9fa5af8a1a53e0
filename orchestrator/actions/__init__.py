"""What a step does: probe, decide, apply."""
