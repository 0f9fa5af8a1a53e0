"""The rehearsal lab: real clusters on one machine, to prove the tool on. Not part of what is shipped."""
