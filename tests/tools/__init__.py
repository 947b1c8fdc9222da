"""Programs of their own, which the tests or `make` run: python -m tests.tools.NAME."""
