# Libraries of the distribution. Each becomes an interface target hearth_dep_<name>, so modules say what they need.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

function(hearth_dependency name)
  pkg_check_modules(DEP_${name} REQUIRED IMPORTED_TARGET ${ARGN})
  add_library(hearth_dep_${name} INTERFACE)
  target_link_libraries(hearth_dep_${name} INTERFACE PkgConfig::DEP_${name})
endfunction()

hearth_dependency(numa numa)
hearth_dependency(uring liburing)
hearth_dependency(pcre2 libpcre2-8)
hearth_dependency(utf8proc libutf8proc)
hearth_dependency(cjson libcjson)

add_library(hearth_dep_jemalloc INTERFACE)
if(NOT HEARTH_SANITIZE) # sanitizers bring their own allocator
  pkg_check_modules(DEP_jemalloc REQUIRED IMPORTED_TARGET jemalloc)
  target_link_libraries(hearth_dep_jemalloc INTERFACE PkgConfig::DEP_jemalloc)
  target_compile_definitions(hearth_dep_jemalloc INTERFACE HEARTH_JEMALLOC=1)
endif()

if(HEARTH_TESTS)
  add_library(hearth_dep_criterion INTERFACE)
  if(HEARTH_SANITIZE)
    # Criterion does not run under TSan, and its child processes hide leaks from ASan: there the same tests run in one
    # process, see tests/support/harness.h.
    target_compile_definitions(hearth_dep_criterion INTERFACE HEARTH_HARNESS=1)
  else()
    pkg_check_modules(DEP_criterion REQUIRED IMPORTED_TARGET criterion)
    target_link_libraries(hearth_dep_criterion INTERFACE PkgConfig::DEP_criterion)
  endif()
endif()
