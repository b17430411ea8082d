"""The drain loop and everything around it that must not hold the interpreter's lock.

A call's tasks are handed out by an atomic counter to whoever comes: the caller itself, threads of the pool,
threads of a Numba region. Which thread runs which task cannot change a bit of the result, since tasks write
disjoint outputs.

Control block (64-bit words, every contended one on a cache line of its own)::

    0  ticket   generation << 20 | open << 19 | helpers inside
    8  counter  next task                16  slots   scratch areas taken
    24 kernel   25 end of tasks          26 scratch  27 bytes of scratch per helper
    28 mailboxes of the pool                    29 how many of them
    32 context of this call: the plan's template with the addresses of x, y and the residual

Blocks are reused and never freed, so that a thread that comes late finds a valid ticket, sees another
generation and goes away. The mailbox of a pool thread is one word: its state, or the address of the control
block that is handed to it (a multiple of 64) plus READY. Whoever swaps that word owns the hand-over: the
thread, which takes it, or the caller, which found no task left and takes it back from a thread that the
system has not let run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import prange
from numba.core import types

from fastconv.kernels.atomics import (
    call_plain,
    call_task,
    fetch_add,
    load,
    pause,
    plain_load,
    plain_store,
    stack_words,
    store,
    swap_if,
)
from fastconv.kernels.jit import device

WORD = 8
TICKET, COUNTER, SLOTS = 0, 8 * WORD, 16 * WORD
KERNEL, END, SCRATCH, STRIDE = 24 * WORD, 25 * WORD, 26 * WORD, 27 * WORD
MAILBOXES, BOXES = 28 * WORD, 29 * WORD
CONTEXT_WORD = 32
CONTEXT = CONTEXT_WORD * WORD

OPEN = 1 << 19
INSIDE = OPEN - 1
GENERATION = 20

#: Two cache lines, since processors fetch them in pairs.
MAILBOX_WORDS = 16
MAILBOX = MAILBOX_WORDS * WORD
BUSY, WAITING, READY, ASLEEP = 0, 1, 2, 3
STATE = 63

#: A compiled function as Python calls it, with integers only.
Entry = Callable[..., Any]
INT = types.intp
SERIAL = types.void(*[INT] * 10)
BEGIN = INT(*[INT] * 13)
FINISH = types.void(INT, INT)
JOIN = types.void(INT, INT, INT)
STAND_BY = types.void(INT, INT, INT)
REGION = types.void(INT, INT)


@device
def _copy_context(to: int, template: int, words: int, x: int, y: int, residual: int) -> None:
    for k in range(words):
        plain_store(to + k * WORD, plain_load(template + k * WORD))
    plain_store(to, x)
    plain_store(to + WORD, y)
    plain_store(to + 2 * WORD, residual)


@device
def _relax(turn: int, give_way: int) -> None:
    # Giving way to other processes now and then is what keeps waiting harmless on a machine that is full.
    if give_way != 0 and turn % 32 == 0:
        call_plain(give_way)
    else:
        pause()


@device
def drain(control: int) -> None:
    """Run tasks until none is left."""
    end = plain_load(control + END)
    i = fetch_add(control + COUNTER, 1)
    if i >= end:
        return
    kernel = plain_load(control + KERNEL)
    scratch = plain_load(control + SCRATCH) + fetch_add(control + SLOTS, 1) * plain_load(control + STRIDE)
    while i < end:
        call_task(kernel, control + CONTEXT, i, scratch)
        i = fetch_add(control + COUNTER, 1)


def serial(
    kernel: int,
    template: int,
    words: int,
    x: int,
    y: int,
    residual: int,
    start: int,
    end: int,
    scratch: int,
    stack_words_of_scratch: int,
) -> None:
    """Run tasks [start, end) in the calling thread; the call's context, and small scratch, live on its stack."""
    padded = (words + 7) & -8
    context = stack_words(padded + stack_words_of_scratch)
    _copy_context(context, template, words, x, y, residual)
    if scratch == 0:
        scratch = context + padded * WORD
    for i in range(start, end):
        call_task(kernel, context, i, scratch)


def begin(
    control: int,
    kernel: int,
    template: int,
    words: int,
    x: int,
    y: int,
    residual: int,
    start: int,
    end: int,
    scratch: int,
    stride: int,
    mailboxes: int,
    helpers: int,
) -> int:
    """Open a control block, hand it to waiting pool threads, return generation << 16 | sleeping threads to
    wake.

    ``helpers`` is the number wanted, << 16 | the number of mailboxes.
    """
    _copy_context(control + CONTEXT, template, words, x, y, residual)
    plain_store(control + KERNEL, kernel)
    plain_store(control + END, end)
    plain_store(control + SCRATCH, scratch)
    plain_store(control + STRIDE, stride)
    store(control + COUNTER, start)
    store(control + SLOTS, 0)
    generation = (load(control + TICKET) >> GENERATION) + 1
    store(control + TICKET, (generation << GENERATION) | OPEN)
    boxes, wanted, asleep = helpers & 0xFFFF, helpers >> 16, 0
    plain_store(control + MAILBOXES, mailboxes)
    plain_store(control + BOXES, boxes)
    for k in range(boxes):
        if wanted == 0:
            break
        box = mailboxes + k * MAILBOX
        state = load(box)
        if state == WAITING:
            fetch_add(control + TICKET, 1)
            if swap_if(box, WAITING, control | READY) == 1:
                wanted -= 1
            else:
                fetch_add(control + TICKET, -1)
        elif state == ASLEEP:
            asleep += 1
    to_wake: int = (generation << 16) | min(wanted, asleep)
    return to_wake


def finish(control: int, give_way: int) -> None:
    """Drain too, close the block, and wait for the helpers that have begun: each is at its last task."""
    if (load(control + TICKET) & OPEN) == 0:
        return
    drain(control)
    fetch_add(control + TICKET, -OPEN)
    mailboxes = plain_load(control + MAILBOXES)
    for k in range(plain_load(control + BOXES)):
        if swap_if(mailboxes + k * MAILBOX, control | READY, WAITING) == 1:
            fetch_add(control + TICKET, -1)
    turn = 1
    while (load(control + TICKET) & INSIDE) != 0:
        _relax(turn, give_way)
        turn += 1


def join(box: int, control: int, generation: int) -> None:
    """Help a call if it is still open; what a pool thread does after it was woken."""
    store(box, BUSY)
    while True:
        ticket = load(control + TICKET)
        if ticket >> GENERATION != generation or (ticket & OPEN) == 0:
            return
        if swap_if(control + TICKET, ticket, ticket + 1) == 1:
            break
    drain(control)
    fetch_add(control + TICKET, -1)


def stand_by(box: int, turns: int, give_way: int) -> None:
    """Wait for work in the mailbox for so many turns, help, wait again; return when none came."""
    store(box, WAITING)
    turn = 1
    while True:
        state = load(box)
        if (state & STATE) == READY:
            if swap_if(box, state, BUSY) == 1:
                control = state - READY
                drain(control)
                fetch_add(control + TICKET, -1)
                store(box, WAITING)
                turn = 1
        elif turn > turns and swap_if(box, WAITING, ASLEEP) == 1:
            return
        else:
            _relax(turn, give_way)
            turn += 1


def region(control: int, workers: int) -> None:
    """Drain in a parallel region of Numba's threading layer (omp or tbb only)."""
    for _ in prange(workers):
        drain(control)
