"""Facts and a request in, a Plan out. Pure."""
