"""Upgrades of the lab's clusters: the textbook's sequence, an application that serves meanwhile, and who watches."""
