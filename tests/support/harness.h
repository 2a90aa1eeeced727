/* The part of Criterion that the tests use. With HEARTH_HARNESS (ThreadSanitizer builds, machines without
 * Criterion) the same tests run in one process, one after another: include this header, never criterion.h.
 *
 * Beyond the assertions below, tests may use .init, .fini, .timeout, .disabled, .description, .signal and .exit_code
 * (the last two run the test in a child). A failed assertion leaves the test from the thread that runs it only; in
 * any other thread it ends the program.
 */
#ifndef HEARTH_TESTS_SUPPORT_HARNESS_H
#define HEARTH_TESTS_SUPPORT_HARNESS_H

#ifndef HEARTH_HARNESS

#include <criterion/criterion.h>

#else

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct harness_case {
    const char *suite, *name;
    void (*run)(void);
    void (*init)(void), (*fini)(void);
    double timeout; /* seconds; 0: none */
    bool disabled;
    int signal, exit_code;
    const char *description;
    struct harness_case *next;
} harness_case;

void harness_add(harness_case *test);
/* A failed check; a fatal one does not return. */
void harness_fail(bool fatal, const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void harness_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define Test(Suite, Name, ...)                                                                                        \
    static void Suite##_##Name##_run(void);                                                                           \
    static harness_case Suite##_##Name##_case = {                                                                     \
        .suite = #Suite, .name = #Name, .run = Suite##_##Name##_run, ##__VA_ARGS__};                                  \
    __attribute__((constructor)) static void Suite##_##Name##_add(void) { harness_add(&Suite##_##Name##_case); }      \
    static void Suite##_##Name##_run(void)

/* The blank keeps a missing message from being an empty format. */
#define HARNESS_CHECK(fatal, ok, what, ...)                                                                           \
    do {                                                                                                              \
        if (!(ok)) harness_fail((fatal), __FILE__, __LINE__, what, " " __VA_ARGS__);                                  \
    } while (0)
#define HARNESS_NEAR(a, b, e) (fabs((double)(a) - (double)(b)) <= (double)(e)) /* false for a NaN */

#define cr_assert(c, ...) HARNESS_CHECK(true, (c), #c, __VA_ARGS__)
#define cr_assert_not(c, ...) HARNESS_CHECK(true, !(c), "!(" #c ")", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) HARNESS_CHECK(true, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) HARNESS_CHECK(true, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) HARNESS_CHECK(true, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) HARNESS_CHECK(true, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) HARNESS_CHECK(true, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) HARNESS_CHECK(true, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...) HARNESS_CHECK(true, (p) == NULL, #p " == NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...) HARNESS_CHECK(true, (p) != NULL, #p " != NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) HARNESS_CHECK(true, strcmp((a), (b)) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) HARNESS_CHECK(true, strcmp((a), (b)) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) HARNESS_CHECK(true, memcmp((a), (b), (n)) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) HARNESS_CHECK(true, HARNESS_NEAR(a, b, e), #a " is near " #b, __VA_ARGS__)
#define cr_assert_fail(...) HARNESS_CHECK(true, false, "reached", __VA_ARGS__)
#define cr_fatal(...) HARNESS_CHECK(true, false, "reached", __VA_ARGS__)

#define cr_expect(c, ...) HARNESS_CHECK(false, (c), #c, __VA_ARGS__)
#define cr_expect_not(c, ...) HARNESS_CHECK(false, !(c), "!(" #c ")", __VA_ARGS__)
#define cr_expect_eq(a, b, ...) HARNESS_CHECK(false, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) HARNESS_CHECK(false, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) HARNESS_CHECK(false, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) HARNESS_CHECK(false, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) HARNESS_CHECK(false, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) HARNESS_CHECK(false, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(p, ...) HARNESS_CHECK(false, (p) == NULL, #p " == NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...) HARNESS_CHECK(false, (p) != NULL, #p " != NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) HARNESS_CHECK(false, strcmp((a), (b)) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) HARNESS_CHECK(false, strcmp((a), (b)) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) HARNESS_CHECK(false, memcmp((a), (b), (n)) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) HARNESS_CHECK(false, HARNESS_NEAR(a, b, e), #a " is near " #b, __VA_ARGS__)
#define cr_expect_fail(...) HARNESS_CHECK(false, false, "reached", __VA_ARGS__)

#define cr_skip_test(...) harness_skip(" " __VA_ARGS__)
#define cr_skip(...) harness_skip(" " __VA_ARGS__)
#define cr_log_info(...) (fprintf(stderr, " " __VA_ARGS__), fputc('\n', stderr))
#define cr_log_warn cr_log_info

#endif
#endif
