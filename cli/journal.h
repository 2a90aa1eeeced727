/* Results that survive: a journal beside the output, to which finished lines are appended in any order, and the output,
 * which grows in the order of the job file.
 *
 *   RESULTS          the lines, one behind the other as in the job file: always whole lines from the first one on
 *   RESULTS.journal  what the job is (the binding), then a record a finished line; torn or damaged ends are dropped
 *
 * A line goes into the output only when the disk has its record, so the output never knows more than the journal. When
 * the journal has grown and most of it is in the output, it is written anew: what the output holds (lines, bytes, hash),
 * and the lines that wait for earlier ones. A complete job leaves such a journal of a few hundred bytes, by which the
 * same command sees that there is nothing to do.
 *
 * An output that is no file (stdout, a pipe) has a journal without a name, which only holds the lines that wait.
 */
#ifndef HEARTH_CLI_JOURNAL_H
#define HEARTH_CLI_JOURNAL_H

#include "cli/files.h"

typedef struct cli_journal cli_journal;

/* Opens both files and locks the journal: -EBUSY when another process is at work on it. `lines`: how many there are. */
int cli_journal_open(cli_journal **out, const char *output, int64_t lines, hearth_error *error);
void cli_journal_close(cli_journal **journal);
bool cli_journal_is_kept(const cli_journal *journal); /* false: nothing could be resumed */

/* Takes up what is there, or begins. `binding`: lines "name=value" of all that decides what the results are; a journal
 * of another binding is -EEXIST, the text says what differs, and nothing was changed. So is an output without a
 * journal. `restart`: what was there is given up. */
int cli_journal_begin(cli_journal *journal, const char *binding, bool restart, hearth_error *error);

bool cli_journal_has(const cli_journal *journal, int64_t line);
int64_t cli_journal_released(const cli_journal *journal);      /* lines of the output */
/* Finished lines below `end`, which is not less than cli_journal_released, and those of them that are errors. Looks at
 * each line. */
int64_t cli_journal_count(const cli_journal *journal, int64_t end, int64_t *errors);
uint64_t cli_journal_dropped(const cli_journal *journal);      /* bytes of a damaged end that cli_journal_begin dropped */

/* A finished line, `bytes` with its line end. On failure (-ENOSPC, ...) the journal is as it was. */
int cli_journal_add(cli_journal *journal, int64_t line, const char *bytes, size_t n, bool is_error, hearth_error *error);
/* To be called often: every second or so the disk is made to have all records, and the output gets what it may. `now`:
 * at once. */
int cli_journal_sync(cli_journal *journal, bool now, hearth_error *error);
/* After the last line of a run. */
int cli_journal_finish(cli_journal *journal, hearth_error *error);

/* Tests: the journal is written anew when it has this many bytes that nobody needs; 0: as usual. */
void cli_journal_set_slack(cli_journal *journal, uint64_t bytes);

#endif
