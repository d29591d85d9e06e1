"""The kernel: a program takes ROWS rows at a time through every layer of a flow.

**The walk.** A layer's hidden units are sorted by degree. Degrees are taken in blocks of at most 128 units. What a
block's units, and its dimensions' outputs, owe to everything before the block is one matrix product for each linear
map; inside the block the walk goes on degree by degree: the units of degree t in each hidden layer, then mu and sigma
of dimension t, then x of it. Where x is given and not sought, a block's units need no such order, and the products take
the block as well.

**Where things are.** Feature-major: a feature's ROWS numbers lie side by side. Weights are read from L2, where all of
them fit (ten layers of D = 63, H = 1024 have 25 MB that are not masked). A program's activations lie in a scratch of
its own, 5 D + C + H1 + H2 + ... numbers for each of its ROWS rows; on chip are only the sums. Nothing is shared between
programs, so one launch does for all layers, and the program's own barrier for all order. A launch for each layer would
save nothing of that, cost some ten microseconds each when rows are few, and send the rows through memory.

**What it costs**, F = 2 (3 D H + (L - 1) H^2) being the operations of a dense pass with L hidden layers of H units, of
which each degree has H / D and a block N = 128:

* operations: F / 2 for each row and layer, of which a share of about N / H is inside blocks, where tiles are narrow
  (the units of one degree, rounded up to 16, 32 or 64) and products slow;
* bytes: for each row and layer F / ROWS of weights from L2, and 2 L H^2 / N of activations, from L2 or, where many
  programs' scratch is more than it holds, from memory; at ROWS = 64, H = 1024, L = 2 some 39 KB and 33 KB for 1.2
  million operations, so that the arithmetic is the limit;
* latency: D (L + 1) steps a layer, each waiting for the one before: a thin product, a barrier, two trips to L1 or L2. A
  single row costs that, and so do as many rows as there are programs at once.

Sums of products are float32 multiply-adds (``input_precision="ieee"``, never TF32); gathers, standardisation and sums
over dimensions are float64. A row's numbers meet no other row's, so a row that is not finite spoils only itself.
"""

import triton
import triton.language as tl

from flowmodel.kernel.cuda import packing
from flowmodel.kernel.cuda.scalars import activate, evaluated, solved

RECORD: tl.constexpr = tl.constexpr(len(packing.STEP_FIELDS))
SOURCE: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("source"))
AFFINE: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("affine"))
SOLVE: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("solve"))
ACTIVATION: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("activation"))
SCALE: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("scale"))
LIMITS: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("limits"))
HIDDEN_LAYERS: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("hidden_layers"))
BLOCKS: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("blocks"))
BLOCK_STARTS: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("block_starts"))
LINEARS: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("linear"))
SKIP: tl.constexpr = tl.constexpr(packing.STEP_FIELDS.index("skip"))
LINEAR: tl.constexpr = tl.constexpr(len(packing.LINEAR_FIELDS))
DEPTH: tl.constexpr = tl.constexpr(packing.DEPTH)
DIMS: tl.constexpr = tl.constexpr(32)
"""Dimensions, or context values, that a gather takes at a time."""
OUTPUTS: tl.constexpr = tl.constexpr(16)
"""Outputs computed at once."""
READ: tl.constexpr = tl.constexpr(64)
"""Hidden units read at once for the outputs of one dimension."""


@triton.jit
def linear_map(table, weights, scratch, linear, ROWS: tl.constexpr):
    """The fields of ``packing.LINEAR_FIELDS``, as pointers where they are places."""
    weight = weights + tl.multiple_of(tl.load(table + linear), DEPTH)
    stride = tl.multiple_of(tl.load(table + linear + 1), DEPTH)
    bias = weights + tl.load(table + linear + 2)
    units_below = table + tl.load(table + linear + 3)
    own = scratch + tl.load(table + linear + 4) * ROWS
    inputs = scratch + tl.load(table + linear + 5) * ROWS
    inputs_below = table + tl.load(table + linear + 6)
    return weight, stride, bias, units_below, own, inputs, inputs_below, tl.load(table + linear + 7)


@triton.jit
def add_product(sums, weight, stride, unit, unit_stop, inputs, start, stop, ROWS: tl.constexpr):
    """``sums[units, ROWS]`` and what the units owe to inputs ``start`` to ``stop``."""
    row = tl.arange(0, ROWS)
    for at in range(start // DEPTH * DEPTH, stop, DEPTH):
        place = tl.multiple_of(at, DEPTH) + tl.arange(0, DEPTH)
        w = tl.load(weight + unit[:, None] * stride + place[None, :], mask=(unit < unit_stop)[:, None], other=0.0)
        # A weight past a unit's degree is 0, but what it would meet may be another row's NaN.
        there = (place >= start) & (place < stop)
        h = tl.load(inputs + place[:, None] * ROWS + row[None, :], mask=there[:, None], other=0.0)
        sums = tl.dot(w, h, sums, input_precision="ieee")
    return sums


@triton.jit
def gathered(rows, count, row, found, first, dim, dims, sources, affine, ROWS: tl.constexpr):
    """Dimensions ``dim`` of what comes next, ``[dims, ROWS]``, float64: from the caller's rows or a layer's result."""
    there = dim < dims
    source = tl.load(sources + dim, mask=there, other=0)[:, None]
    if first:
        inside = there[:, None] & (row < count)[None, :]
        value = tl.load(rows + row.to(tl.int64)[None, :] * dims + source, mask=inside, other=0.0).to(tl.float64)
    else:
        lane = tl.arange(0, ROWS)[None, :]
        value = tl.load(found + source * ROWS + lane, mask=there[:, None], other=0.0).to(tl.float64)
    centre = tl.load(affine + dim, mask=there, other=0.0)
    scale = tl.load(affine + dims + dim, mask=there, other=0.0)
    shift = tl.load(affine + 2 * dims + dim, mask=there, other=0.0)
    return (value - centre[:, None]) * scale[:, None] + shift[:, None]


@triton.jit
def take_context(context, contexts, numbers, inputs, row, count, ROWS: tl.constexpr):
    """Standardise the context and put it before x."""
    for start in range(0, contexts, DIMS):
        place = start + tl.arange(0, DIMS)
        there = place < contexts
        inside = there[:, None] & (row < count)[None, :]
        value = tl.load(context + row.to(tl.int64)[None, :] * contexts + place[:, None], mask=inside, other=0.0)
        location = tl.load(numbers + place, mask=there, other=0.0)
        scale = tl.load(numbers + contexts + place, mask=there, other=0.0)
        value = ((value - location[:, None]) * scale[:, None]).to(tl.float32)
        tl.store(inputs + place[:, None] * ROWS + tl.arange(0, ROWS)[None, :], value, mask=there[:, None])


@triton.jit
def multiply_block(table, weights, scratch, x, record, begin, end, ROWS: tl.constexpr, UNITS: tl.constexpr):
    """A block's units and outputs as far as a product gives them: all of them if x is known, else what lies before."""
    lane = tl.arange(0, ROWS)[None, :]
    solve = tl.load(record + SOLVE)
    activation = tl.load(record + ACTIVATION)
    hidden_layers = tl.load(record + HIDDEN_LAYERS)
    linears = tl.load(record + LINEARS)
    skip = tl.load(record + SKIP)
    for layer in range(hidden_layers):
        weight, stride, bias, units_below, own, inputs, inputs_below, sees_own = linear_map(
            table, weights, scratch, linears + layer * LINEAR, ROWS
        )
        known = tl.load(inputs_below + (begin if solve != 0 else end - 1 + sees_own))
        unit_stop = tl.load(units_below + end)
        for start in range(tl.load(units_below + begin), unit_stop, UNITS):
            unit = start + tl.arange(0, UNITS)
            there = unit < unit_stop
            sums = tl.zeros([UNITS, ROWS], tl.float32) + tl.load(bias + unit, mask=there, other=0.0)[:, None]
            sums = add_product(sums, weight, stride, unit, unit_stop, inputs, 0, known, ROWS)
            if solve == 0:
                sums = activate(sums, activation)
            tl.store(own + unit[:, None] * ROWS + lane, sums, mask=there[:, None])
        if solve == 0:
            tl.debug_barrier()
    weight, stride, bias, units_below, own, inputs, inputs_below, sees_own = linear_map(
        table, weights, scratch, linears + hidden_layers * LINEAR, ROWS
    )
    known = tl.load(inputs_below + (begin if solve != 0 else end))
    for start in range(2 * begin, 2 * end, OUTPUTS):
        unit = start + tl.arange(0, OUTPUTS)
        there = unit < 2 * end
        sums = tl.zeros([OUTPUTS, ROWS], tl.float32) + tl.load(bias + unit, mask=there, other=0.0)[:, None]
        sums = add_product(sums, weight, stride, unit, 2 * end, inputs, 0, known, ROWS)
        if skip != 0:
            skip_weight = weights + tl.multiple_of(tl.load(table + skip), DEPTH)
            skip_stride = tl.multiple_of(tl.load(table + skip + 1), DEPTH)
            sums = add_product(
                sums, skip_weight, skip_stride, unit, 2 * end, x, 0, begin if solve != 0 else end - 1, ROWS
            )
        tl.store(own + unit[:, None] * ROWS + lane, sums, mask=there[:, None])
    tl.debug_barrier()


@triton.jit
def finish_units(table, weights, scratch, record, begin, t, ROWS: tl.constexpr, GROUP: tl.constexpr):
    """The hidden units of degree ``t``, x below it being known: what the block itself adds, then the activation."""
    lane = tl.arange(0, ROWS)[None, :]
    activation = tl.load(record + ACTIVATION)
    linears = tl.load(record + LINEARS)
    for layer in range(tl.load(record + HIDDEN_LAYERS)):
        weight, stride, bias, units_below, own, inputs, inputs_below, sees_own = linear_map(
            table, weights, scratch, linears + layer * LINEAR, ROWS
        )
        start_known = tl.load(inputs_below + begin)
        stop_known = tl.load(inputs_below + t + sees_own)
        unit_stop = tl.load(units_below + t + 1)
        for start in range(tl.load(units_below + t), unit_stop, GROUP):
            unit = start + tl.arange(0, GROUP)
            place = unit[:, None] * ROWS + lane
            there = (unit < unit_stop)[:, None]
            sums = tl.load(own + place, mask=there, other=0.0)
            sums = add_product(sums, weight, stride, unit, unit_stop, inputs, start_known, stop_known, ROWS)
            tl.store(own + place, activate(sums, activation), mask=there)
        tl.debug_barrier()


@triton.jit
def finish_outputs(table, weights, scratch, x, record, begin, t, ROWS: tl.constexpr):
    """Of dimension ``t`` mu and the raw scale, each ``[ROWS]``."""
    lane = tl.arange(0, ROWS)
    skip = tl.load(record + SKIP)
    weight, stride, bias, units_below, own, inputs, inputs_below, sees_own = linear_map(
        table, weights, scratch, tl.load(record + LINEARS) + tl.load(record + HIDDEN_LAYERS) * LINEAR, ROWS
    )
    mu = tl.load(own + 2 * t * ROWS + lane)
    raw = tl.load(own + (2 * t + 1) * ROWS + lane)
    start_known = tl.load(inputs_below + begin)
    stop_known = tl.load(inputs_below + t + 1)
    for start in range(start_known, stop_known, READ):
        unit = start + tl.arange(0, READ)
        there = unit < stop_known
        h = tl.load(inputs + unit[:, None] * ROWS + lane[None, :], mask=there[:, None], other=0.0)
        mu += tl.sum(h * tl.load(weight + 2 * t * stride + unit, mask=there, other=0.0)[:, None], 0)
        raw += tl.sum(h * tl.load(weight + (2 * t + 1) * stride + unit, mask=there, other=0.0)[:, None], 0)
    if skip != 0:
        skip_weight = weights + tl.load(table + skip) + 2 * t * tl.load(table + skip + 1)
        for dim in range(begin, t):
            value = tl.load(x + dim * ROWS + lane)
            mu += value * tl.load(skip_weight + dim)
            raw += value * tl.load(skip_weight + tl.load(table + skip + 1) + dim)
    return mu, raw


@triton.jit
def walk_layer(
    table,
    numbers,
    weights,
    scratch,
    given,
    found,
    x,
    outputs,
    record,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One layer, from ``given`` to ``found``: its log-determinant in that direction, ``[ROWS]``."""
    lane = tl.arange(0, ROWS)
    solve = tl.load(record + SOLVE)
    scale_fn = tl.load(record + SCALE)
    limits = numbers + tl.load(record + LIMITS)
    low = tl.load(limits).to(tl.float32)
    high = tl.load(limits + 1).to(tl.float32)
    block_starts = table + tl.load(record + BLOCK_STARTS)
    log_det = tl.zeros([ROWS], tl.float64)
    for block in range(tl.load(record + BLOCKS)):
        begin = tl.load(block_starts + block)
        end = tl.load(block_starts + block + 1)
        multiply_block(table, weights, scratch, x, record, begin, end, ROWS, UNITS)
        if solve != 0:
            for t in range(begin, end):
                finish_units(table, weights, scratch, record, begin, t, ROWS, GROUP)
                mu, raw = finish_outputs(table, weights, scratch, x, record, begin, t, ROWS)
                value, s = solved(tl.load(given + t * ROWS + lane), mu, raw, scale_fn, low, high)
                tl.store(x + t * ROWS + lane, value)
                tl.store(found + t * ROWS + lane, value)
                log_det -= s.to(tl.float64)
                tl.debug_barrier()
        else:
            for start in range(begin, end, DIMS):
                dim = start + tl.arange(0, DIMS)
                there = (dim < end)[:, None]
                place = dim[:, None] * ROWS + lane[None, :]
                mu = tl.load(outputs + place + dim[:, None] * ROWS, mask=there, other=0.0)
                raw = tl.load(outputs + place + (dim[:, None] + 1) * ROWS, mask=there, other=0.0)
                value, s = evaluated(tl.load(x + place, mask=there, other=0.0), mu, raw, scale_fn, low, high)
                tl.store(found + place, value, mask=there)
                log_det += tl.sum(tl.where(there, s, 0.0).to(tl.float64), 0)
    tl.debug_barrier()
    return log_det


# One compiled kernel serves every number of rows and every flow of like widths.
_UNSPECIALISED = ("count", "dims", "contexts", "steps", "last_source", "last_affine", "context_affine", "scratch_rows")
_UNALIGNED = ("rows", "context", "values", "log_prob")


@triton.jit(do_not_specialize=_UNSPECIALISED, do_not_specialize_on_alignment=_UNALIGNED)
def walk_flow(
    rows,
    context,
    values,
    log_prob,
    table,
    numbers,
    weights,
    scratch,
    count,
    dims,
    contexts,
    steps,
    last_source,
    last_affine,
    context_affine,
    scratch_rows,
    PULL: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Rows ``[count, dims]`` to ``log_prob[count]``; if not PULL they are noise, and go to ``values[count, dims]``."""
    scratch += tl.program_id(0).to(tl.int64) * scratch_rows * ROWS
    lane = tl.arange(0, ROWS)
    given = scratch
    found = given + dims * ROWS
    inputs = found + dims * ROWS
    x = inputs + contexts * ROWS
    outputs = x + dims * ROWS
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        row = tile * ROWS + lane
        take_context(context, contexts, numbers + context_affine, inputs, row, count, ROWS)
        log_det = tl.zeros([ROWS], tl.float64)
        squares = tl.zeros([ROWS], tl.float64)
        if not PULL:
            for start in range(0, dims, DIMS):
                dim = start + tl.arange(0, DIMS)
                inside = (dim < dims)[:, None] & (row < count)[None, :]
                noise = tl.load(rows + row.to(tl.int64)[None, :] * dims + dim[:, None], mask=inside, other=0.0)
                squares += tl.sum(noise.to(tl.float64) * noise.to(tl.float64), 0)

        for step in range(steps):
            record = table + step * RECORD
            solve = tl.load(record + SOLVE)
            for start in range(0, dims, DIMS):
                dim = start + tl.arange(0, DIMS)
                there = (dim < dims)[:, None]
                sources, affine = table + tl.load(record + SOURCE), numbers + tl.load(record + AFFINE)
                value = gathered(rows, count, row, found, step == 0, dim, dims, sources, affine, ROWS).to(tl.float32)
                place = dim[:, None] * ROWS + lane[None, :]
                tl.store(given + place, value, mask=there)
                if solve == 0:
                    tl.store(x + place, value, mask=there)
            tl.debug_barrier()
            log_det += walk_layer(
                table, numbers, weights, scratch, given, found, x, outputs, record, ROWS, UNITS, GROUP
            )

        for start in range(0, dims, DIMS):
            dim = start + tl.arange(0, DIMS)
            there = (dim < dims)[:, None]
            sources, affine = table + last_source, numbers + last_affine
            value = gathered(rows, count, row, found, False, dim, dims, sources, affine, ROWS)
            if PULL:
                squares += tl.sum(tl.where(there, value * value, 0.0), 0)
            else:
                place = row.to(tl.int64)[None, :] * dims + dim[:, None]
                tl.store(values + place, value.to(tl.float32), mask=there & (row < count)[None, :])
        density = tl.load(numbers) - 0.5 * squares + (log_det if PULL else -log_det)
        tl.store(log_prob + row, density.to(tl.float32), mask=row < count)
