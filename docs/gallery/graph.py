"""
Along the edges of a graph
==========================

In a graph each node should hear from its neighbours alone. To attention that is a mask: node i may attend to node j
if an edge joins them. A graph of n nodes has n x n pairs and few edges, and the mask is given as what it is, a sparse
matrix of SciPy: what it does not store is neither computed nor held.

The first graph is small and real: who met whom in a karate club, while Zachary (1977) watched it break in two. Each
node also sees itself.
"""

import json
import time
import tracemalloc

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import scipy.sparse as sp

import pyattn
from examples.packages import package_files

club = nx.karate_club_graph()
n = len(club)
friends = (nx.to_scipy_sparse_array(club, format="csr") + sp.eye_array(n)).tocsr()
joined_president = np.array([club.nodes[i]["club"] == "Officer" for i in club])
print(f"{n} members, {club.number_of_edges()} pairs, {friends.nnz} entries of {n * n}")

# %%
# A mean over neighbours
# ----------------------
#
# Where all queries and keys are 0, all logits are equal, and attention gives the mean of what the neighbours hold.
# The president and the instructor hold 1 and -1, all others 0. A layer carries what they hold over one edge: after k
# layers a node knows of what is k edges away.

president, instructor = 33, 0
nothing = np.zeros((n, 8), np.float32)
told = np.zeros((n, 1), np.float32)
told[[president, instructor], 0] = 1, -1

layers = [told]
for _ in range(3):
    layers.append(pyattn.scaled_dot_product_attention(nothing, nothing, layers[-1], friends))

# sphinx_gallery_thumbnail_number = 1
places = nx.spring_layout(club, seed=3)
figure, row = plt.subplots(1, 4, figsize=(9, 2.8), layout="constrained")
for depth, (axes, held) in enumerate(zip(row, layers, strict=True)):
    most = np.abs(held).max()
    options = {"cmap": "coolwarm", "vmin": -most, "vmax": most, "node_size": 45, "edgecolors": "0.4", "linewidths": 0.5}
    nx.draw_networkx_edges(club, places, ax=axes, edge_color="0.85", width=0.6)
    nx.draw_networkx_nodes(club, places, ax=axes, node_color=held[:, 0], **options)
    axes.set_title(f"after {depth} layers: {np.count_nonzero(held)} know", fontsize=9)
    axes.axis("off")

# %%
# The sign of what a member has heard is a guess whom he followed when the club broke. More layers with the two
# leaders held fast, and these guesses settle:

for _ in range(50):
    told = pyattn.scaled_dot_product_attention(nothing, nothing, told, friends)
    told[[president, instructor], 0] = 1, -1
by_mean = told[:, 0]
right = (by_mean > 0) == joined_president
print(f"{right.sum()} of {n} right; wrong: {np.flatnonzero(~right)}")

# %%
# The one who is not had three weeks to go to his black belt, which the instructor would award, as Zachary tells: no
# graph of friends knows that.
#
# So far there was nothing to attend to, and a product of sparse matrices gives the same. It is the check:

share = sp.diags_array(1 / np.diff(friends.indptr)) @ (friends != 0)
one_layer = pyattn.scaled_dot_product_attention(nothing, nothing, told, friends)
print(f"largest difference: {np.abs(share @ told - one_layer).max():.1e}")

# %%
# What attention adds
# -------------------
#
# Weights that depend on what the nodes are. Let query and key of a member say whom he met: those who share many
# friends then weigh more to each other. And how often two met is known: its logarithm, as a sparse bias beside the
# mask, makes the weights proportional to it.

met = friends.copy().astype(np.float32)
same_friends = (met != 0).toarray().astype(np.float32)
same_friends /= np.linalg.norm(same_friends, axis=1, keepdims=True)
often = met.copy()
often.data = np.log(often.data)


def settled(query, key, **options):
    """Who is guessed right when the guesses have settled."""
    held = np.zeros((n, 1), np.float32)
    for _ in range(50):
        held[[president, instructor], 0] = 1, -1
        held = pyattn.scaled_dot_product_attention(query, key, held, friends, **options)
    return (held[:, 0] > 0) == joined_president


print("all friends alike:       ", settled(nothing, nothing).sum())
print("by friends in common:    ", settled(same_friends, same_friends, scale=4.0).sum())
print("by how often they met:   ", settled(nothing, nothing, bias=often).sum())
print("by both:                 ", settled(same_friends, same_friends, scale=4.0, bias=often).sum())

# %%
# Here it makes no difference: the graph alone says it all, and nobody has trained anything. In a graph attention
# network (Velickovic et al. 2018) the matrices that make queries and keys of what nodes hold are learned.
#
# What it costs
# -------------
#
# The second graph is of the size and shape of the European high-voltage grid (case9241pegase of the PEGASE project,
# Fliscounakis et al. 2013), which the package pandapower carries. Its lines and transformers are the edges. Parts of
# it, from one place outwards, are computed in three ways: with the sparse mask; with a dense mask of booleans; by the
# formula in NumPy.

file = "pandapower/networks/power_system_test_case_jsons/case9241pegase.json"
parts = json.loads((package_files("pandapower==3.5.6") / file).read_text())["_object"]


def column(part, name):
    table = json.loads(parts[part]["_object"])
    return np.array([row[table["columns"].index(name)] for row in table["data"]])


ends = [
    np.concatenate([column("line", "from_bus"), column("trafo", "hv_bus")]),
    np.concatenate([column("line", "to_bus"), column("trafo", "lv_bus")]),
]
size = 1 + max(x.max() for x in ends)
one_way = sp.coo_array((np.ones(len(ends[0]), bool), ends), (size, size))
grid = (one_way + one_way.T + sp.eye_array(size, dtype=bool)).tocsr()
order = sp.csgraph.breadth_first_order(grid, 0, return_predecessors=False)
print(f"{size} nodes, {grid.nnz} entries: {grid.nnz / size:.1f} a row, {100 * grid.nnz / size**2:.3f} % of all pairs")


def in_numpy(query, key, value, mask):
    logits = query @ key.swapaxes(-1, -2)
    logits /= np.sqrt(np.float32(query.shape[-1]))
    logits[:, ~mask] = -np.inf
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits @ value


def measured(function, *arrays):
    """Milliseconds, the best of three, and megabytes that NumPy took on the way."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        result = function(*arrays)
        seconds.append(time.perf_counter() - begin)
    tracemalloc.start()
    function(*arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, min(seconds) * 1e3, peak / 1e6


heads, width = 2, 32
rng = np.random.default_rng(0)
sizes = (500, 1000, 2000, 4000, size)
table = {"sparse mask": [], "dense mask": [], "NumPy": []}
for n in sizes:
    edges = grid[order[:n]][:, order[:n]]
    every = edges.toarray()
    arrays = rng.standard_normal((3, heads, n, width), dtype=np.float32)
    held = (edges.data.nbytes + edges.indices.nbytes + edges.indptr.nbytes) / 1e6
    right, milliseconds, peak = measured(pyattn.scaled_dot_product_attention, *arrays, edges)
    table["sparse mask"].append((milliseconds, peak + held))
    for name, function in (("dense mask", pyattn.scaled_dot_product_attention), ("NumPy", in_numpy)):
        if name == "dense mask" or n <= 4000:
            result, milliseconds, peak = measured(function, *arrays, every)
            assert np.allclose(result, right, atol=1e-4)
            table[name].append((milliseconds, peak + every.nbytes / 1e6))

print(f"{'':6}{'sparse mask':>18}{'dense mask':>18}{'NumPy':>18}")
print(f"{'nodes':6}" + f"{'ms':>9}{'MB':>9}" * 3)
for i, n in enumerate(sizes):
    cells = [f"{rows[i][0]:9.2f}{rows[i][1]:9.1f}" if i < len(rows) else f"{'-':>9}" * 2 for rows in table.values()]
    print(f"{n:<6}" + "".join(cells))

# %%
# MB count the mask, the result and what NumPy takes on the way; the formula in NumPy was not asked for the whole
# grid. Memory of the sparse mask grows with the edges, of the others with the square of the nodes. Of a dense mask
# pyattn passes over blocks that allow nothing, and as the nodes are numbered from one place outwards, most blocks are
# such: up to a thousand nodes it is about as fast.

figure, both = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for which, (axes, label) in enumerate(zip(both, ("milliseconds", "MB"), strict=True)):
    for (name, rows), marker in zip(table.items(), "o^s", strict=True):
        axes.plot(sizes[: len(rows)], [row[which] for row in rows], marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="nodes", title=label)
both[0].legend(frameon=False)

# %%
# How far a layer sees
# --------------------
#
# A sparse layer is cheap since it sees little: one edge. What is 40 edges away reaches a node after 40 layers, while
# a layer without a mask sees all at once. Here one node holds 1, and each layer tells the neighbours; who has been
# reached is who is near enough by shortest paths.

hops = sp.csgraph.shortest_path(grid, unweighted=True, indices=0)
nothing = np.zeros((size, 8), np.float32)
told = np.zeros((size, 1), np.float32)
told[0] = 1
begin = time.perf_counter()
reached = []
for layer in range(1, int(hops.max()) + 1):
    told = pyattn.scaled_dot_product_attention(nothing, nothing, told, grid)
    told /= told.max()  # else what is spread over thousands of nodes becomes too small a number
    reached.append(np.count_nonzero(told))
    assert reached[-1] == (hops <= layer).sum()
print(f"{len(reached)} layers in {time.perf_counter() - begin:.2f} s")
for layer in (1, 5, 10, 20, 30, len(reached)):
    print(f"{layer:3} layers: {reached[layer - 1]:5} nodes, {(hops <= layer).sum():5} as near as that")
