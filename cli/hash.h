/* FNV-1a in 64 and 128 bits (Fowler, Noll, Vo; draft-eastlake-fnv): fingerprints of files and records. They tell what
 * has changed or is torn; they are no defence against somebody who wants to deceive. */
#ifndef HEARTH_CLI_HASH_H
#define HEARTH_CLI_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct cli_hash { uint64_t high, low; } cli_hash;

#define CLI_HASH_START ((cli_hash){0x6c62272e07bb0142u, 0x62b821756295c58du})

/* The hash of what was hashed so far and of `bytes` behind it. */
static inline cli_hash cli_hash_more(cli_hash hash, const void *bytes, size_t n)
{
    const unsigned char *b = bytes;
    unsigned __int128 h = (unsigned __int128)hash.high << 64 | hash.low;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * ((unsigned __int128)1 << 88 | 0x13b);
    return (cli_hash){(uint64_t)(h >> 64), (uint64_t)h};
}

static inline uint64_t cli_hash64(const void *bytes, size_t n, uint64_t hash)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i++) hash = (hash ^ b[i]) * 0x100000001b3u;
    return hash;
}
#define CLI_HASH64_START 0xcbf29ce484222325u

static inline int cli_hash_equal(cli_hash a, cli_hash b) { return a.high == b.high && a.low == b.low; }

enum { CLI_HASH_TEXT = 33 };
static inline const char *cli_hash_text(cli_hash hash, char out[CLI_HASH_TEXT])
{
    snprintf(out, CLI_HASH_TEXT, "%016llx%016llx", (unsigned long long)hash.high, (unsigned long long)hash.low);
    return out;
}

#endif
