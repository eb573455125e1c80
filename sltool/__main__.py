"""`python -m sltool`."""

from sltool.cli.main import main

if __name__ == "__main__":
    main()
