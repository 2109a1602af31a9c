/* SPDX-License-Identifier: MIT
 *
 * The monitor follows one run's journal, learns of each death, gathers evidence, asks the causes and
 * speaks. One process, one thread that acts (a second only waits on the journal's bell). It is
 * nobody's child and never touches the trainer but to read it, to take the stack of a process that
 * waits for it, and, where the user asked for it, to end a run that stands still.
 */
#ifndef NNG_MONITOR_MONITOR_H
#define NNG_MONITOR_MONITOR_H

#include "../journal/snapshot.h"
#include "../report/report.h"

/* `nnguard monitor --journal-fd N`: argv[0] is "monitor". Returns the exit status. */
int nng_monitor_main(int argc, char **argv);

/* Analyse a journal whose run and monitor are gone. Fills *out (out->incident is allocated, free it
 * with free()). 0 or -errno (see nng_view_open; -EBUSY: the run still lives). Nothing is written. */
int nng_monitor_postmortem(const char *run_dir, struct nng_run *out);

/* Does the run of this journal still live? Its monitor holds the file's lock for as long as it lives
 * (also in another pid namespace, where a pid would mean somebody else); without a monitor its root is
 * looked for by boot, pid namespace, pid and start time. The root is asked first: trying the lock of a
 * run that is just starting could cost its monitor the lock. */
bool nng_run_lives(const struct nng_view *v);

#endif
