/* Ctrl-C: what the first one cancels, and what the second one ends. */
#include "cli/cli.h"

#include <signal.h>
#include <unistd.h>

/* A signal handler has no argument: its engine and count have to be here. */
static hearth_engine *volatile interrupt_engine;
static volatile sig_atomic_t interrupt_count, interrupt_idle;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    if (interrupt_idle) {
        static const char newline[] = "\n";
        ssize_t wrote = write(STDERR_FILENO, newline, 1);
        (void)wrote; /* nobody could be told */
        _exit(CLI_INTERRUPTED);
    }
    if (interrupt_count++) _exit(CLI_INTERRUPTED);
    if (interrupt_engine) hearth_engine_cancel(interrupt_engine, true);
}

void cli_interrupt_begin(hearth_engine *engine)
{
    interrupt_engine = engine;
    interrupt_count = 0;
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
}

void cli_interrupt_on_terminate(void)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
}

void cli_interrupt_while_idle(bool idle) { interrupt_idle = idle; }

bool cli_interrupted(void) { return interrupt_count != 0; }

void cli_interrupt_clear(void)
{
    interrupt_count = 0;
    if (interrupt_engine) hearth_engine_cancel(interrupt_engine, false);
}

void cli_interrupt_end(void)
{
    interrupt_engine = NULL;
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}
