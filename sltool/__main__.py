"""`sltool` and `python -m sltool`: handles Ctrl-C from the first import on."""

from typing import NoReturn

from sltool.cli.interrupt import ctrl_c


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    ctrl_c.install()
    from sltool.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
