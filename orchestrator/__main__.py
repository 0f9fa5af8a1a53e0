"""`python -m orchestrator`, `orchestrator` and `kubectl orchestrator`."""

import gc

from orchestrator.cli import main as command_line


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        command_line.main()
    finally:
        # Or the interpreter looks through all modules for garbage on its way out, which takes 35 ms.
        gc.freeze()


if __name__ == "__main__":
    main()
