/* Which sanitizer this build has, for gcc and clang alike. The emulation's own bookkeeping is compiled without
 * ThreadSanitizer (cmake/HearthGpu.cmake); it tells it about order by hand. */
#ifndef HEARTH_GPU_EMU_SANITIZE_H
#define HEARTH_GPU_EMU_SANITIZE_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define HT_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define HT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) || defined(HEARTH_EMU_TSAN)
#undef HT_TSAN
#define HT_TSAN 1
#endif

#ifdef HT_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef HT_TSAN
#include <sanitizer/tsan_interface.h>
#define HT_TSAN_RELEASE(p) __tsan_release(p)
#define HT_TSAN_ACQUIRE(p) __tsan_acquire(p)
#else
#define HT_TSAN_RELEASE(p) ((void)(p))
#define HT_TSAN_ACQUIRE(p) ((void)(p))
#endif

#endif
