"""``python -m vcycle`` is the command ``vcycle``."""

from vcycle.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
