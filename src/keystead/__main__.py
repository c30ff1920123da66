"""`python -m keystead`."""

from keystead.cli.main import main

if __name__ == "__main__":
    main()
