# hearth_gpu: the device port. The kernels (gpu/kernels/*.cu) are built for the emulated GPU by the host's C++ compiler,
# and for real ones by nvcc where there is one (HEARTH_CUDA, HEARTH_CUDA_ARCHITECTURES).
set(HEARTH_CUDA_ARCHITECTURES "" CACHE STRING "compute capabilities to build for; empty: the usual ones, sm_75 to sm_120")

file(GLOB gpu_kernels CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/gpu/kernels/*.cu)
file(GLOB gpu_emu CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/gpu/emu/*.c)

# A source file can be of one language only: a host build of x.cu is a generated x.cpp that includes it.
set(gpu_emu_kernels)
foreach(kernel ${gpu_kernels})
  get_filename_component(name ${kernel} NAME_WE)
  set(wrapper ${CMAKE_BINARY_DIR}/gpu_emu/${name}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${kernel}\"\n")
  list(APPEND gpu_emu_kernels ${wrapper})
endforeach()

# hearth_emulate(target sources...): .cu or .cpp wrappers compiled as kernels of the emulated GPU.
function(hearth_emulate target)
  add_library(${target} OBJECT ${ARGN})
  target_link_libraries(${target} PUBLIC hearth_options)
  target_compile_options(${target} PRIVATE -O2 -Wno-unknown-pragmas -ffp-contract=off)
endfunction()

hearth_module(gpu gpu LINK hearth_ports)
if(NOT TARGET hearth_gpu)
  return()
endif()
hearth_emulate(hearth_gpu_emu_kernels ${gpu_emu_kernels})
target_sources(hearth_gpu PRIVATE ${gpu_emu} $<TARGET_OBJECTS:hearth_gpu_emu_kernels>)
target_link_libraries(hearth_gpu PUBLIC Threads::Threads stdc++ m)
if(HEARTH_SANITIZE STREQUAL "thread")
  # The scheduler of fibers is not the kernel: it tells ThreadSanitizer about order itself.
  set_source_files_properties(${CMAKE_SOURCE_DIR}/gpu/emu/exec.c ${CMAKE_SOURCE_DIR}/gpu/emu/fiber.c PROPERTIES
    COMPILE_OPTIONS "-fno-sanitize=thread;-DHEARTH_EMU_TSAN=1")
endif()

# ---- CUDA ----
# auto: where there are nvcc and a GPU, for that GPU. on: wherever nvcc is, for HEARTH_CUDA_ARCHITECTURES.
set(cuda_found OFF)
set(cuda_why "HEARTH_CUDA=${HEARTH_CUDA}")
set(cuda_architectures ${HEARTH_CUDA_ARCHITECTURES})
if(NOT HEARTH_CUDA STREQUAL "off")
  find_program(HEARTH_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
  if(HEARTH_NVCC)
    set(cuda_found ON)
  elseif(HEARTH_CUDA STREQUAL "on")
    message(FATAL_ERROR "HEARTH_CUDA=on, and there is no nvcc in PATH, CUDACXX or /usr/local/cuda/bin")
  else()
    set(cuda_why "no nvcc in PATH, CUDACXX or /usr/local/cuda/bin")
  endif()
endif()
if(cuda_found AND NOT cuda_architectures AND HEARTH_CUDA STREQUAL "auto")
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE capability
    RESULT_VARIABLE failed ERROR_QUIET)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" capability "${capability}")
  if(failed OR NOT capability)
    set(cuda_found OFF)
    set(cuda_why "nvcc but no GPU here; -DHEARTH_CUDA=on builds for others")
  else()
    list(REMOVE_DUPLICATES capability)
    string(REPLACE "." "" cuda_architectures "${capability}")
  endif()
endif()
if(cuda_found AND NOT cuda_architectures) # those of the usual ones that this nvcc knows
  execute_process(COMMAND ${HEARTH_NVCC} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
  foreach(capability 75 80 86 89 90 120)
    if(known MATCHES "compute_${capability}\n")
      list(APPEND cuda_architectures ${capability})
    endif()
  endforeach()
endif()
if(cuda_found)
  set(CMAKE_CUDA_COMPILER ${HEARTH_NVCC} CACHE FILEPATH "nvcc")
  set(CMAKE_CUDA_ARCHITECTURES ${cuda_architectures}) # before enable_language
  if(CMAKE_C_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  list(TRANSFORM gpu_kernels PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE cuda_sources)
  add_library(hearth_gpu_cuda_kernels OBJECT ${cuda_sources})
  target_include_directories(hearth_gpu_cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
  # -fmad=false: no contraction, as everywhere.
  target_compile_options(hearth_gpu_cuda_kernels PRIVATE -fmad=false -lineinfo --expt-relaxed-constexpr)
  find_package(CUDAToolkit REQUIRED)
  set_target_properties(hearth_gpu PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}") # it is older than the variable
  target_sources(hearth_gpu PRIVATE $<TARGET_OBJECTS:hearth_gpu_cuda_kernels>)
  target_link_libraries(hearth_gpu PUBLIC CUDA::cudart_static)
  target_compile_definitions(hearth_gpu PUBLIC HEARTH_HAVE_CUDA=1) # hearth_build_info says so
  message(STATUS "CUDA: ${HEARTH_NVCC}, compute capabilities ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA: left out (${cuda_why}): --device emu works, --device cuda says so")
endif()
