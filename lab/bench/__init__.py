"""Drains side by side with kubectl's, as ratios."""
