"""`python -m orchestrator`, `orchestrator` and `kubectl orchestrator`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
