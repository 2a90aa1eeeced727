# Compiler flags, and hearth_module().

add_library(hearth_options INTERFACE)
target_include_directories(hearth_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(hearth_options INTERFACE _GNU_SOURCE)
target_compile_options(hearth_options INTERFACE
  -Wall -Wextra -Wshadow -Wpointer-arith -Wvla $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes>
  -fno-strict-aliasing      # weights are read as whatever block they are
  -ffp-contract=off         # D10: a*b+c is rounded as it is written; kernels that want FMA say so
  -fno-math-errno -fvisibility=hidden)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(hearth_options INTERFACE -march=x86-64-v2)
endif()
if(HEARTH_WERROR)
  target_compile_options(hearth_options INTERFACE -Werror)
endif()
if(HEARTH_DEBUG)
  target_compile_definitions(hearth_options INTERFACE HEARTH_DEBUG=1)
endif()
if(HEARTH_SANITIZE STREQUAL "address")
  set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
elseif(HEARTH_SANITIZE STREQUAL "thread")
  set(sanitize -fsanitize=thread -fno-omit-frame-pointer)
elseif(HEARTH_SANITIZE)
  message(FATAL_ERROR "HEARTH_SANITIZE must be address, thread or empty, not '${HEARTH_SANITIZE}'")
endif()
if(HEARTH_SANITIZE)
  target_compile_options(hearth_options INTERFACE ${sanitize} -O1 -g)
  target_link_options(hearth_options INTERFACE ${sanitize})
endif()

set(HEARTH_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(HEARTH_FLAGS_avx512 ${HEARTH_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi
    -mavx512bf16)

# hearth_module(name folder LINK libraries...): a static library hearth_<name> of all .c files in the folder.
function(hearth_module name folder)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.c)
  if(NOT sources)
    return()
  endif()
  foreach(source ${sources})
    foreach(level avx2 avx512)
      if(source MATCHES "_${level}\\.c$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${HEARTH_FLAGS_${level}}")
      endif()
    endforeach()
  endforeach()
  add_library(hearth_${name} STATIC ${sources})
  target_link_libraries(hearth_${name} PUBLIC hearth_options ${arg_LINK})
endfunction()
