"""The steps by which a vector index's directory comes, is opened, and changes from one state to the next."""

from dataclasses import replace
from pathlib import Path

from pyattn.tasks.vector_index import files as index_files
from pyattn.tasks.vector_index.files import Header
from pyattn.tasks.vector_index.graph import Graph
from pyattn.tasks.vector_index.state import State
from pyattn.tasks.vector_index.view import View, read_view


def create(directory: Path, header: Header) -> tuple[Header, View]:
    """An index without rows in a new directory, or an empty one."""
    if directory.is_dir() and any(directory.iterdir()):
        raise ValueError(f"create: {directory} is not empty; VectorIndex.open opens an index")
    directory.mkdir(exist_ok=True)
    header = index_files.new_files(directory, header)
    header = index_files.write_state(directory, header, State().to_json(), b"")
    index_files.write_header(directory, header)
    return header, read_view(directory, header)


def read(directory: Path) -> tuple[Header, View]:
    """The newest state of a directory."""
    next(directory.iterdir(), None)  # raises OSError
    try:
        while True:
            header = index_files.read_header(directory)
            try:
                return header, read_view(directory, header)
            except FileNotFoundError as error:  # a writer may have put another header in its place
                if index_files.read_header(directory) == header:
                    raise ValueError(f"{Path(error.filename).name} is missing") from error
    except ValueError as error:
        raise ValueError(f"open: {directory} is not an index that `pyattn embed` wrote ({error})") from error


def read_state(directory: Path, header: Header) -> State:
    try:
        content = index_files.read_checked(directory / f"state-{header.state}", header.state_sha256)
        return State.from_json(content, header.rows)
    except FileNotFoundError as error:
        raise ValueError(f"open: {directory} has been changed since it was opened; open it again") from error
    except ValueError as error:
        raise ValueError(f"open: {directory} is damaged ({error})") from error


def commit(directory: Path, header: Header, view: View, state: State) -> tuple[Header, View]:
    """Puts all on the disk, then the header in the place of the last one, then removes what only that one named."""
    try:
        content = state.to_json()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"save: notes cannot be written as JSON ({error})") from error
    for name in index_files.GROWING:
        with (directory / f"{name}-{header.base}").open("r+b") as file:
            index_files.synchronize(file)
    if header.rows - header.graph_rows > header.exact:
        header, graph = _grown(directory, header, view)
        view = replace(view, graph=graph)
    header = index_files.write_state(directory, header, content, view.bits.tobytes())
    index_files.write_header(directory, header)
    index_files.remove_others(directory, header)
    return header, view


def _grown(directory: Path, header: Header, view: View) -> tuple[Header, Graph]:
    """A graph of all rows, in a new file: the old one with what it lacks, or one made now."""
    if view.graph is None:
        graph = Graph.of(view.vectors)
    else:
        graph = Graph.load(directory / f"graph-{header.graph}", header.width, header.graph_rows, growing=True)
        graph.add(view.vectors[header.graph_rows :])
    name = index_files.token()
    path = directory / f"graph-{name}"
    graph.save(path)
    with path.open("r+b") as file:
        index_files.synchronize(file)
    header = replace(header, graph=name, graph_rows=header.rows, graph_sha256=index_files.sha256_of(path))
    return header, Graph.load(path, header.width, header.rows)
