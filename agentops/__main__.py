"""`python -m agentops` is the `agentops` command."""

from agentops.cli import main

if __name__ == "__main__":
    main()
