"""`python -m pyattn`: the command without its script."""

from pyattn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
