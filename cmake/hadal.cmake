# The few functions the build needs. Sources are found by folder, so adding a file needs no edit here.

add_library(hadal_flags INTERFACE)
target_compile_options(hadal_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers -Werror
  # The code decides where a product and a sum are fused: through an explicit fma (docs/numerics.md).
  -ffp-contract=off -fno-math-errno)
if(HADAL_SANITIZE)
  target_compile_options(hadal_flags INTERFACE
    -fsanitize=${HADAL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
    # GCC 12 finds std::regex guilty of the one; fences of Asio, which locks besides, are no news to TSan.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(hadal_flags INTERFACE -fsanitize=${HADAL_SANITIZE})
  # TSan does not know fences; without them Asio keeps to its mutexes.
  target_compile_definitions(hadal_flags INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
endif()

# hadal_embed_configs(file): models/configs/*.json as string literals, so that `synth --config flash` needs no path.
function(hadal_embed_configs output)
  file(GLOB configs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/models/configs/*.json)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${configs})
  set(text "#include \"checkpoint/embedded_configs.h\"\nnamespace hadal::checkpoint {\nconst EmbeddedConfig kEmbeddedConfigs[] = {\n")
  foreach(config IN LISTS configs)
    get_filename_component(name ${config} NAME_WE)
    file(READ ${config} content)
    string(APPEND text "{\"${name}\", R\"json(${content})json\"},\n")
  endforeach()
  list(LENGTH configs count)
  string(APPEND text "};\nconst int kEmbeddedConfigCount = ${count};\n}\n")
  file(CONFIGURE OUTPUT ${output} CONTENT "${text}" @ONLY)
endfunction()

# hadal_embed_page(file): the web page of `hadal serve` as string literals, each with its type and a digest as its tag.
# A row: file, type.
set(hadal_page
  index.html          text/html
  style.css           text/css
  theme.js            text/javascript
  app.js              text/javascript
  markdown-it.min.js  text/javascript
  purify.min.js       text/javascript
  icon.svg            image/svg+xml)
function(hadal_embed_page output)
  set(text "#include \"serve/page.h\"\n#pragma GCC diagnostic ignored \"-Woverlength-strings\"\nnamespace hadal::serve {\nusing std::string_view_literals::operator\"\"sv;\nconst PageFile kPageFiles[] = {\n")
  set(rows ${hadal_page})
  set(count 0)
  while(rows)
    list(POP_FRONT rows name type)
    set(path ${CMAKE_SOURCE_DIR}/src/serve/page/${name})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
    file(READ ${path} content HEX)
    file(SHA256 ${path} digest)
    string(SUBSTRING ${digest} 0 16 tag)
    string(REGEX REPLACE "(..)" "\\\\x\\1" content "${content}")
    string(APPEND text "{\"/${name}\", \"${type}\", \"${tag}\", \"${content}\"sv},\n")
    math(EXPR count "${count} + 1")
  endwhile()
  string(APPEND text "};\nconst int kPageFileCount = ${count};\n}\n")
  file(CONFIGURE OUTPUT ${output} CONTENT "${text}" @ONLY)
endfunction()

# hadal_modules(): reads src/layers.txt; each module becomes hadal_<module>, linked with ${<module>_libraries}.
function(hadal_modules)
  file(STRINGS src/layers.txt lines REGEX "^[a-z]+ *:")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS src/layers.txt)
  foreach(line IN LISTS lines)
    string(REGEX REPLACE " *:.*" "" module "${line}")
    string(REGEX REPLACE "^[a-z]+ *: *" "" below "${line}")
    separate_arguments(below)
    file(GLOB sources CONFIGURE_DEPENDS src/${module}/*.cpp)
    list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
    if(module STREQUAL "train" AND NOT HADAL_TRAINER)
      set(sources)  # optional: the engine never needs libtorch
    endif()
    if(module STREQUAL "checkpoint")
      hadal_embed_configs(${CMAKE_BINARY_DIR}/generated/embedded_configs.cpp)
      list(APPEND sources ${CMAKE_BINARY_DIR}/generated/embedded_configs.cpp)
    endif()
    if(module STREQUAL "serve")
      hadal_embed_page(${CMAKE_BINARY_DIR}/generated/page_files.cpp)
      list(APPEND sources ${CMAKE_BINARY_DIR}/generated/page_files.cpp)
    endif()
    if(sources)
      add_library(hadal_${module} STATIC ${sources})
      set(kind PUBLIC)
      target_link_libraries(hadal_${module} PRIVATE hadal_flags)
    else()
      add_library(hadal_${module} INTERFACE)
      set(kind INTERFACE)
    endif()
    target_include_directories(hadal_${module} ${kind} ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(hadal_${module} ${kind} fmt::fmt Threads::Threads ${${module}_libraries})
    if(module STREQUAL "train" AND HADAL_TRAINER)
      separate_arguments(torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
      target_compile_options(hadal_train ${kind} ${torch_flags})
      target_compile_definitions(hadal_train ${kind} HADAL_TRAINER)
      target_precompile_headers(hadal_train PRIVATE <torch/torch.h>)  # half a minute per source otherwise
    endif()
    foreach(dependency IN LISTS below)
      target_link_libraries(hadal_${module} ${kind} hadal_${dependency})
    endforeach()
  endforeach()
  # Instruction sets: flags by file name, chosen at run time (kernels/isa.h).
  set(avx2 -mavx2 -mfma -mf16c)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
  foreach(isa avx2 avx512)
    file(GLOB isa_sources CONFIGURE_DEPENDS src/kernels/*_${isa}.cpp)
    # g++ 12 warns about uninitialised values inside its own AVX-512 headers.
    set_source_files_properties(${isa_sources} PROPERTIES
      COMPILE_OPTIONS "${${isa}};-O3;-Wno-uninitialized;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>")
  endforeach()
  # The trainer's loops: vectors of the compiler, fused products. They hold no header of torch, so the flags stay there.
  set(fused -O3 -ffp-contract=fast)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND fused -mavx2 -mfma)
  endif()
  set_source_files_properties(src/train/fused.cpp PROPERTIES
    COMPILE_OPTIONS "${fused}" SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# hadal_tests(): every tests/<folder>/*_test.cpp is one executable and one ctest test, labelled by folder. A build
# with the trainer has the trainer's tests only, one without has all others.
function(hadal_tests)
  file(GLOB support CONFIGURE_DEPENDS tests/support/*.cpp)
  add_library(hadal_test_support STATIC ${support})
  target_include_directories(hadal_test_support PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_definitions(hadal_test_support PUBLIC
    HADAL_SOURCE_DIR="${CMAKE_SOURCE_DIR}" HADAL_PROGRAM="$<TARGET_FILE:hadal>")
  target_link_libraries(hadal_test_support PUBLIC hadal_cli GTest::gtest GTest::gtest_main PRIVATE hadal_flags)
  file(GLOB tests CONFIGURE_DEPENDS tests/*/*_test.cpp)
  if(HADAL_TRAINER)
    list(FILTER tests INCLUDE REGEX "/tests/train/")
  else()
    list(FILTER tests EXCLUDE REGEX "/tests/train/")
    set(skipped "train (built without libtorch: make test-trainer)")
    add_test(NAME ${skipped} COMMAND ${CMAKE_COMMAND} -E false)
    set_tests_properties(${skipped} PROPERTIES LABELS train SKIP_RETURN_CODE 1)
  endif()
  set(timeout 600)
  if(HADAL_SANITIZE)
    set(timeout 3600)  # they are ten times slower
  endif()
  foreach(source IN LISTS tests)
    get_filename_component(name ${source} NAME_WE)
    get_filename_component(folder ${source} DIRECTORY)
    get_filename_component(folder ${folder} NAME)
    set(target ${folder}_${name})
    add_executable(${target} ${source})
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${target} PRIVATE hadal_test_support hadal_flags)
    if(folder STREQUAL "train")
      target_precompile_headers(${target} REUSE_FROM hadal_train)
    endif()
    if(folder MATCHES "^(cli|integration|train)$")
      add_dependencies(${target} hadal)
    endif()
    string(REGEX REPLACE "_test$" "" short ${name})
    add_test(NAME ${folder}.${short} COMMAND ${target} --gtest_brief=1)
    set_tests_properties(${folder}.${short} PROPERTIES LABELS ${folder} TIMEOUT ${timeout})
    if(folder STREQUAL "train")
      set_tests_properties(${folder}.${short} PROPERTIES TIMEOUT 1800 ENVIRONMENT OMP_NUM_THREADS=1)
    endif()
  endforeach()
  if(NOT HADAL_TRAINER)
    add_executable(stand_in tests/clients/stand_in.cpp)  # the server that tests/clients talk to
    set_target_properties(stand_in PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(stand_in PRIVATE hadal_test_support hadal_flags)
  endif()
  add_test(NAME arch.includes COMMAND ${CMAKE_SOURCE_DIR}/tools/check_includes.sh)
  set_tests_properties(arch.includes PROPERTIES LABELS arch)
endfunction()

# hadal_fuzz_targets(): fuzz/fuzz_<what>.cpp, libFuzzer.
function(hadal_fuzz_targets)
  file(GLOB sources CONFIGURE_DEPENDS fuzz/fuzz_*.cpp)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE hadal_cli hadal_flags)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  endforeach()
endfunction()
