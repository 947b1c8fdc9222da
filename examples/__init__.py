"""Models trained on real data with torch and pyattn, then served by pyattn alone.

Each is a script, such as `python -m examples.recommendation`, with --quick for a look. `make examples` installs what
they need and takes a look at all of them.
"""
