/* SPDX-License-Identifier: MIT
 *
 * Small pure text helpers shared by causes, monitor and report: numbers for people, cleaning of
 * hostile text, Python tracebacks. [any-thread], no allocation.
 */
#ifndef NNG_CAUSES_TEXT_H
#define NNG_CAUSES_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nng_traceback;

/* "64.0 MiB", "0 B", "1.5 GiB"; unknown (-1): "?". Returns buf; the ring of 16 static buffers variant
 * is nng_bytes. */
char *nng_text_bytes(char *buf, size_t n, int64_t bytes);
const char *nng_bytes(int64_t bytes);
/* Rounded up to what a person would type: "1g", "512m". */
const char *nng_size_arg(int64_t bytes);
/* Copy src (n bytes) so that it is safe on a terminal: control characters but \n and \t become '?',
 * ESC sequences are removed, \r splits lines as \n would (only the last part of a progress line is
 * kept), invalid UTF-8 becomes '?', C1 controls and bidi overrides too. Always terminated. Returns the
 * length. */
size_t nng_text_clean(char *out, size_t out_size, const char *src, size_t n);
/* Same for one line: \n and \t become spaces. */
size_t nng_text_clean_line(char *out, size_t out_size, const char *src, size_t n);
/* A clean, terminated copy (ring of 12, at most 383 bytes) of a fixed field that a dying process left:
 * never trusted to be terminated. NNG_FIELD(x) for arrays. */
const char *nng_text_field(const char *field, size_t size);
#define NNG_FIELD(array) nng_text_field((array), sizeof(array))
/* The first n bytes as one word for a shell, in single quotes (POSIX, 2.2.2): for commands to be copied. Cut
 * to what fits; the result lives until three more calls of this thread. */
const char *nng_text_quoted(const char *s, size_t n);
/* Shorten a path from the left to at most max bytes: ".../nnunetv2/x.py". */
const char *nng_path_short(const char *path, size_t max);
/* The beginning of a text, at most max bytes, "..." where it was cut. */
const char *nng_text_short(const char *text, size_t max);
const char *nng_signal_name(int signo); /* "SIGBUS", "SIGRTMIN+3", "signal 99" */
const char *nng_errno_name(int err);    /* "ENOSPC", "errno 999" */
/* Find the last Python traceback in cleaned text; tb->present tells. Of a chain ("During handling of the
 * above exception ...") the last one is what ended the process; tb->root_type names the first. A text that
 * starts in the middle of a traceback (the tail is a ring) is understood too. traceback.c */
void nng_text_traceback(const char *text, struct nng_traceback *tb);
/* It ended because another process of the run was gone: a pool that broke, a pipe of multiprocessing, loky,
 * torch. A connection of the program's own (a database, an object store) is none of these. traceback.c */
bool nng_text_lost_peer(const struct nng_traceback *tb);

#endif
