"""What a cluster is and what follows from it. Pure: no I/O, no clock."""
