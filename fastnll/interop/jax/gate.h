/* What stands between XLA and handlers that run in the interpreter.
 *
 * XLA's threads outlive the interpreter: a handler that asks for its lock when it is gone waits for ever, and XLA waits
 * for the handler. So XLA is given C functions that count who is inside, and from some moment on let nobody in; these need no
 * interpreter to say no. One function a handler, for XLA passes nothing by which one could tell them apart.
 */
#ifndef FASTNLL_GATE_H
#define FASTNLL_GATE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* As xla/ffi/api/c_api.h has them, as far as they are read here; tests compare _ffi.py's, and these by what comes of them. */
typedef struct {
    size_t struct_size;
    void *extension;
    const char *message;
    int code;
} gate_error;
typedef struct {
    size_t struct_size;
    void *extension;
    struct {
        size_t struct_size;
        void *extension;
        int major, minor;
    } version;
    void *internal;
    void *(*make_error)(gate_error *);
} gate_api;
typedef struct {
    size_t struct_size;
    void *extension;
    const gate_api *api;
} gate_frame;

typedef void *(*gate_handler)(void *frame);

#define GATES 16
static gate_handler gate_handlers[GATES];
static int gate_used, gate_closed;
static int64_t gate_inside;

static void *gate_pass(int i, void *frame) {
    void *answer;
    /* First counted, then asked whether it is open: who closes it sees everybody whom this let in. */
    __atomic_fetch_add(&gate_inside, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&gate_closed, __ATOMIC_SEQ_CST)) {
        answer = gate_handlers[i](frame);
    } else {
        const gate_api *api = ((const gate_frame *)frame)->api;
        gate_error error = {sizeof error, NULL, "fastnll: the interpreter has ended", 1 /* cancelled */};
        answer = api ? api->make_error(&error) : NULL;
    }
    __atomic_fetch_sub(&gate_inside, 1, __ATOMIC_SEQ_CST);
    return answer;
}

#define GATE(i) \
    static void *gate_##i(void *frame) { return gate_pass(i, frame); }
GATE(0) GATE(1) GATE(2) GATE(3) GATE(4) GATE(5) GATE(6) GATE(7)
GATE(8) GATE(9) GATE(10) GATE(11) GATE(12) GATE(13) GATE(14) GATE(15)
#undef GATE
static const gate_handler gates[GATES] = {gate_0, gate_1, gate_2,  gate_3,  gate_4,  gate_5,  gate_6,  gate_7,
                                          gate_8, gate_9, gate_10, gate_11, gate_12, gate_13, gate_14, gate_15};

/* Called under the interpreter's lock, or by one thread at a time. NULL: all are taken. */
static void *gate_open(void *handler) {
    if (gate_used == GATES) return NULL;
    gate_handlers[gate_used] = (gate_handler)handler;
    return (void *)gates[gate_used++];
}

/* Let nobody in any more, and wait for those who are inside; called without the interpreter's lock, which they need. */
static void gate_close(void) {
    const struct timespec moment = {0, 200000};
    __atomic_store_n(&gate_closed, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&gate_inside, __ATOMIC_SEQ_CST)) nanosleep(&moment, NULL);
}

#endif
