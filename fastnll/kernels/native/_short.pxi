"""The short way into the kernels, for batches whose call would cost more than their arithmetic: plain arrays, default options.

A small batch takes well under a microsecond, one row of a large vocabulary about twenty, all of the checks of the general
path about ten. What is not plain gets None, errors included, and goes the general way. Same kernels, same bits.
"""

cdef enum:
    # Largest batch that runs at once, on the calling thread, and the largest that is taken.
    SMALL_ELEMENTS = 8192
    SHORT_ELEMENTS = 1 << 20
    SHORT_BLOCKS = 64

cdef object _pinned_get = config.settings.get
cdef object _unpinned = config.settings.get()
cdef object _empty_like = np.empty_like
cdef object _ndarray = np.ndarray
cdef object _lend = buffers.pool.empty
cdef object _threads_for = config.threads_for
cdef object _np_shares = np.may_share_memory
cdef object _fsum = math.fsum


cdef bint _is_default():
    """Return whether nobody asks for another backend or instruction set."""
    if not _default_env:
        return False
    pinned = _pinned_get()
    return pinned is _unpinned or (pinned.isa is None and (pinned.backend or "native") == "native")


cdef double _sum_blocks(const double *sums, int64_t count) except? -1.0:
    """Return the sum that `fastnll.ops` makes of block sums."""
    cdef double total = 0.0
    cdef int64_t b
    for b in range(count):
        total += sums[b]
    if count < 2 or total - total != 0.0:
        return total
    return _fsum([sums[b] for b in range(count)])


def small_cross_entropy(logits, targets, bint with_grad, out):
    """Return (loss, gradient) of C-ordered (N, V) logits and valid targets under default options, or None."""
    cdef fnll_task c
    cdef Py_buffer view
    cdef int64_t n, v, size, ignored = 0, bad = 0, first = -1
    cdef int code, i
    cdef double sums[SHORT_BLOCKS]
    cdef char *start
    cdef char *end
    cdef bint large
    cdef const fnll_kernels *kernels
    cdef object dtype
    if type(logits) is not _ndarray or type(targets) is not _ndarray or not _is_default():
        return None
    dtype = logits.dtype
    if dtype is _float32:
        i = 1
    elif dtype is _float64:
        i = 0
    else:
        return None
    code = _integer_codes.get(targets.dtype, -1) if targets.dtype is not _int64 else 7
    if code < 0:
        return None
    memset(&c, 0, sizeof(c))
    PyObject_GetBuffer(targets, &view, PyBUF_STRIDES)
    c.t.p = view.buf
    if view.ndim == 1:
        n = view.shape[0]
        c.t.inner = view.strides[0] // view.itemsize
        if c.t.inner * view.itemsize != view.strides[0]:
            n = 0
    else:
        n = 0
    PyBuffer_Release(&view)
    if n == 0 or n > SHORT_BLOCKS * FNLL_ROWS:
        return None
    PyObject_GetBuffer(logits, &view, PyBUF_STRIDES)
    c.x.p = view.buf
    v = view.shape[1] if view.ndim == 2 else 0
    if view.ndim != 2 or view.shape[0] != n or v < 2 or view.strides[1] != view.itemsize or (
            view.strides[0] != v * view.itemsize) or <size_t>view.buf % <size_t>view.itemsize:
        v = 0
    PyBuffer_Release(&view)
    if v == 0 or n * v > SHORT_ELEMENTS:
        return None
    large = v > FNLL_STACK or n * v > SMALL_ELEMENTS
    if large and events.active is not None:  # whoever profiles wants to know more of it
        return None
    _tables[_n_tables - 1].scan(&c.t, code, 1, n, v, 1, -100, &ignored, &bad, &first)
    if ignored or bad:
        return None
    if with_grad:
        size = n * v * (4 if i == 1 else 8)
        if out is None:
            out = _lend(logits.shape, dtype) if large else _empty_like(logits)
            _fill(&c.out, out, True)
        else:
            # Of the logits' kind and apart from them, or the logits themselves. Targets inside it would be overwritten before
            # they are read: the general path copies them.
            if type(out) is not _ndarray or out.dtype is not dtype or not out.flags.writeable or not (
                    out.flags.c_contiguous) or out.shape != logits.shape:
                return None
            _fill(&c.out, out, True)
            start, end = <char *>c.out.p, <char *>c.out.p + size
            if c.out.p != c.x.p and start < <char *>c.x.p + size and end > <char *>c.x.p:
                return None
            if <size_t>start % <size_t>(4 if i == 1 else 8) or c.t.inner < 0 or (
                    <char *>c.t.p < end and <char *>c.t.p + n * 8 * max(c.t.inner, 1) > start):
                return None
    c.op = FNLL_CROSS_ENTROPY
    c.outer, c.inner, c.v = 1, n, v
    c.x.inner, c.x.cls = v, 1
    if with_grad:
        c.out.outer, c.out.inner, c.out.cls = 0, v, 1
    c.t_code = code
    c.temperature = 1.0
    c.grad_scale = 1.0 / n
    kernels = &_tables[_n_tables - 1].storage[i]
    if large:
        _run(kernels, &c, 4 if i == 1 else 8, _threads_for(n * v), sums)
    else:
        fnll_run(kernels, &c, 4 if i == 1 else 8, 1, sums)
    return _sum_blocks(sums, (n + FNLL_ROWS - 1) // FNLL_ROWS) / n, out


def small_softmax(x, bint log, out):
    """Return softmax or log_softmax along the last axis of a C-ordered array, or None."""
    cdef fnll_task c
    cdef int size
    cdef bint large
    if type(x) is not _ndarray or not _is_default():
        return None
    size = _plain(&c, x)
    if size == 0:
        return None
    large = c.v > FNLL_STACK or c.inner * c.v > SMALL_ELEMENTS
    if out is None:
        out = _lend(x.shape, x.dtype) if large else _empty_like(x)
    elif out is not x and (
            type(out) is not _ndarray or out.dtype is not x.dtype or out.shape != x.shape or not out.flags.c_contiguous
            or _np_shares(x, out)):
        return None
    elif not out.flags.writeable:
        return None
    c.op = FNLL_LOG_SOFTMAX if log else FNLL_SOFTMAX
    c.out.p = _pointer(out)
    c.out.inner, c.out.cls = c.v, 1
    _go(&c, size, large)
    return out


def small_logsumexp(x):
    """Return the logsumexp along the last axis of a C-ordered array of at least two axes, or None."""
    cdef fnll_task c
    cdef int size
    if type(x) is not _ndarray or x.ndim < 2 or not _is_default():
        return None
    size = _plain(&c, x)
    if size == 0:
        return None
    result = np.empty(x.shape[:x.ndim - 1])
    c.op = FNLL_LSE
    c.lse = <double *>_pointer(result)
    _go(&c, size, c.v > FNLL_STACK or c.inner * c.v > SMALL_ELEMENTS)
    return result if size == 8 else result.astype(np.float32)


cdef int _plain(fnll_task *c, object x) except -1:
    """Fill a task with the rows of an array; return the size of an element, or 0 for what is not plain."""
    cdef Py_buffer view
    cdef int64_t n
    cdef int size = 4 if x.dtype is _float32 else 8 if x.dtype is _float64 else 0
    if size == 0 or not x.flags.c_contiguous:
        return 0
    n = x.size
    if n == 0 or n > SHORT_ELEMENTS or x.ndim == 0:
        return 0
    memset(c, 0, sizeof(fnll_task))
    PyObject_GetBuffer(x, &view, PyBUF_STRIDES)
    c.x.p = view.buf
    c.v = view.shape[view.ndim - 1]
    PyBuffer_Release(&view)
    if c.v < 2 or <size_t>c.x.p % <size_t>size:
        return 0
    c.outer, c.inner = 1, n // c.v
    c.x.inner, c.x.cls = c.v, 1
    c.grad_scale = c.temperature = 1.0
    return size


cdef int _go(fnll_task *c, int size, bint large) except -1:
    cdef const fnll_kernels *kernels = &_tables[_n_tables - 1].storage[1 if size == 4 else 0]
    if large:
        return _run(kernels, c, size, _threads_for(c.inner * c.v), NULL)
    fnll_run(kernels, c, size, 1, NULL)
    return 0
