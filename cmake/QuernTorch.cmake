# quern::torch: libtorch_cpu and libc10 from the torch wheel. find_package(Torch) is not used: the
# wheel is a CUDA build and its configuration fails without a CUDA toolkit. tools/setup installs the
# wheels.
if(DEFINED ENV{QUERN_CACHE})
  set(_cache "$ENV{QUERN_CACHE}")
else()
  set(_cache "$ENV{HOME}/.cache/quern")
endif()
if(NOT QUERN_SITE_PACKAGES)
  file(GLOB _site LIST_DIRECTORIES true "${_cache}/python/lib/python3*/site-packages")
  if(NOT _site)
    message(FATAL_ERROR "LibTorch is missing: run tools/setup, or set QUERN_SITE_PACKAGES to a folder that contains torch/.")
  endif()
  list(GET _site 0 QUERN_SITE_PACKAGES)
endif()
set(QUERN_SITE_PACKAGES "${QUERN_SITE_PACKAGES}" CACHE PATH "site-packages that hold torch and the nvidia wheels")
set(_torch "${QUERN_SITE_PACKAGES}/torch")

function(quern_imported name file)
  if(NOT EXISTS "${file}")
    message(FATAL_ERROR "${file} is missing: run tools/setup")
  endif()
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${file}")
endfunction()

quern_imported(quern::c10 "${_torch}/lib/libc10.so")
quern_imported(quern::torch_cpu "${_torch}/lib/libtorch_cpu.so")
add_library(quern_torch INTERFACE)
add_library(quern::torch ALIAS quern_torch)
target_include_directories(quern_torch SYSTEM INTERFACE "${_torch}/include" "${_torch}/include/torch/csrc/api/include")
target_link_libraries(quern_torch INTERFACE quern::torch_cpu quern::c10)

# The wheel also contains the headers of another version of fmt. Plain include folders are searched
# before system ones, so this folder, which only has a link to the installed fmt, hides the wheel's.
find_path(QUERN_FMT_INCLUDE fmt/format.h PATHS /usr/include NO_DEFAULT_PATH)
find_path(QUERN_FMT_INCLUDE fmt/format.h REQUIRED)
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/fmt_first")
file(CREATE_LINK "${QUERN_FMT_INCLUDE}/fmt" "${CMAKE_BINARY_DIR}/fmt_first/fmt" SYMBOLIC)
target_include_directories(quern_torch INTERFACE "${CMAKE_BINARY_DIR}/fmt_first")
