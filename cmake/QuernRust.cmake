# quern::text_ffi: the crate in rust/ as a static library with a C ABI. cargo decides what is stale.
# The target folder is outside the build folder, so a clean build does not compile the crates again.
find_program(QUERN_CARGO cargo HINTS "$ENV{HOME}/.cargo/bin")
if(NOT QUERN_CARGO)
  message(FATAL_ERROR "cargo is missing: run tools/setup, or install Rust 1.85 or newer (Debian 12: cargo-web, rustc-web).")
endif()
set(QUERN_RUST_TARGET "${_cache}/rust" CACHE PATH "cargo's target folder")
set(_lib "${QUERN_RUST_TARGET}/release/libquern_text.a")
file(GLOB_RECURSE _rs CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/rust/src/*.rs")
add_custom_command(OUTPUT "${CMAKE_BINARY_DIR}/libquern_text.a"
  COMMAND "${QUERN_CARGO}" build --release --locked --quiet --manifest-path "${CMAKE_SOURCE_DIR}/rust/Cargo.toml"
          --target-dir "${QUERN_RUST_TARGET}"
  COMMAND "${CMAKE_COMMAND}" -E copy "${_lib}" "${CMAKE_BINARY_DIR}/libquern_text.a"
  DEPENDS ${_rs} "${CMAKE_SOURCE_DIR}/rust/Cargo.toml" "${CMAKE_SOURCE_DIR}/rust/Cargo.lock"
  USES_TERMINAL VERBATIM COMMENT "cargo build (rust/)")
add_custom_target(quern_rust DEPENDS "${CMAKE_BINARY_DIR}/libquern_text.a")
add_library(quern::text_ffi STATIC IMPORTED GLOBAL)
set_target_properties(quern::text_ffi PROPERTIES IMPORTED_LOCATION "${CMAKE_BINARY_DIR}/libquern_text.a")
add_dependencies(quern::text_ffi quern_rust)
target_include_directories(quern::text_ffi INTERFACE "${CMAKE_SOURCE_DIR}/rust/include")
target_link_libraries(quern::text_ffi INTERFACE dl m pthread)
