"""The figures that pictures make, for those who have not made one; imported when the first is, with matplotlib."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that needs neither a screen nor pyplot, and that notebooks show all the same."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
