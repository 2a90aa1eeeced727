/* hearth-score: what a model thinks of a given sequence of tokens. A development tool, for comparing engines token by
 * token (bench/compare_llama_cpp.py).
 *
 *     hearth-score MODEL IDS [q8|f32] [prompt|decode]
 *
 * IDS is a file of windows, one a line, of token ids. For every token but a window's last, one line on stdout: the
 * likeliest next id, and the log-probability of the id that does come next. "decode" computes the second half of each
 * window one token at a time, in the decode class.
 */
#include "hearth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 8192 };

typedef struct scorer { const int32_t *ids; int64_t n; int32_t n_vocab; } scorer;

static void print_score(void *user, int64_t position, const float *logits)
{
    const scorer *s = user;
    int32_t best = 0;
    double sum = 0;

    if (position + 1 >= s->n) return;
    for (int32_t i = 1; i < s->n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
    for (int32_t i = 0; i < s->n_vocab; i++) sum += exp((double)logits[i] - logits[best]);
    printf("%d %.7g\n", best, (double)logits[s->ids[position + 1]] - logits[best] - log(sum));
}

static int score_window(hearth_session *session, scorer *s, bool decode, hearth_error *error)
{
    int64_t as_prompt = decode ? (s->n + 1) / 2 : s->n;
    int r = hearth_session_score(session, s->ids, as_prompt, 0, print_score, s, error);

    for (int64_t i = as_prompt; i < s->n && r >= 0; i++) {
        r = hearth_session_append(session, s->ids[i], error);
        if (r >= 0) print_score(s, i, hearth_session_logits(session));
    }
    return r;
}

/* The ids of the next line; 0 at the end of the file, -1 when they are too many. */
static int64_t read_window(FILE *f, int32_t *ids)
{
    char *line = NULL;
    size_t room = 0;
    int64_t n = 0;

    if (getline(&line, &room, f) > 0)
        for (char *at = line, *end; n >= 0; at = end) {
            long id = strtol(at, &end, 10);
            if (end == at) break;
            if (n == WINDOW) n = -1;
            else ids[n++] = (int32_t)id;
        }
    free(line);
    return n;
}

int main(int argc, char **argv)
{
    static int32_t ids[WINDOW];
    hearth_engine *engine = NULL;
    hearth_session *session = NULL;
    hearth_error error = {0};

    if (argc < 3) {
        fprintf(stderr, "usage: hearth-score MODEL IDS [q8|f32] [prompt|decode]\n");
        return 2;
    }
    hearth_options options = {.model = argv[1], .activations = argc > 3 ? argv[3] : NULL, .context = WINDOW, .quiet = true};
    bool decode = argc > 4 && !strcmp(argv[4], "decode");
    FILE *f = fopen(argv[2], "r");
    int r = f ? hearth_engine_open(&engine, &options, &error) : -1;
    if (!f) snprintf(error.text, sizeof(error.text), "cannot open %s", argv[2]);
    if (r >= 0) r = hearth_session_open(&session, engine, &(hearth_session_options){0}, &error);
    scorer s = {.ids = ids, .n_vocab = r >= 0 ? hearth_vocab_size(hearth_engine_vocab(engine)) : 0};
    while (r >= 0 && (s.n = read_window(f, ids)) > 0) r = score_window(session, &s, decode, &error);
    if (r < 0) fprintf(stderr, "hearth-score: %s\n", error.text);
    hearth_session_close(&session);
    hearth_engine_close(&engine);
    if (f) fclose(f);
    return r < 0;
}
