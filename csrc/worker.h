/*
 * A disk's queues served in C: pop, preadv or pwritev, push, signal, without the interpreter. Read
 * by the C compiler and, as it stands, by cffi, after ring.h: so it has no preprocessor lines.
 */
