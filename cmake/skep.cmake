# Settings and helpers that every folder uses. Presets (CMakePresets.json) set the options below.

option(SKEP_TESTS "build the tests and the examples" ON)
option(SKEP_FUZZ "build the fuzzers with libFuzzer (clang); without it they only run their seeds" OFF)
option(SKEP_WERROR "warnings are errors" OFF)
option(SKEP_COVERAGE "count the lines that tests reach" OFF)
option(SKEP_DEVICE_HALF "build kernels, libskep-gpu and a node without ssd, which need no library" OFF)
set(SKEP_SANITIZE "" CACHE STRING "sanitizers: address,undefined or thread")
set(SKEP_CUDA AUTO CACHE STRING "the CUDA back end of kernels/: OFF, ON, or AUTO (where nvcc is)")

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
if(NOT CMAKE_BUILD_TYPE)
	set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g -DNDEBUG")
# Debug is what the sanitizers run on: SKEP_ASSERT is on, and -O1 keeps their runs short.
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")

find_package(Threads REQUIRED)
if(NOT SKEP_DEVICE_HALF)
	find_package(PkgConfig REQUIRED)
else()
	# io_uring and RocksDB are not looked for: the node here has no ssd.
	set(SKEP_URING OFF)
	set(SKEP_SSD OFF)
	# A GPU machine may lack xxhash.h: what is needed of it is in base/hash_plain.h.
	include(CheckCSourceCompiles)
	check_c_source_compiles("#define XXH_INLINE_ALL
		#include <xxhash.h>
		int main(void) { return (int)XXH3_64bits(\"\", 0); }" SKEP_HAVE_XXHASH)
	if(NOT SKEP_HAVE_XXHASH)
		add_compile_definitions(SKEP_HASH_PLAIN)
	endif()
endif()

# A compiler cache is used where one is installed, and never asked for.
find_program(SKEP_CCACHE ccache)
if(SKEP_CCACHE)
	set(CMAKE_C_COMPILER_LAUNCHER ${SKEP_CCACHE})
endif()

include(${CMAKE_CURRENT_LIST_DIR}/cuda.cmake)

add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Wall> $<$<COMPILE_LANGUAGE:C,CXX>:-Wextra>
	$<$<COMPILE_LANGUAGE:C,CXX>:-Wshadow> $<$<COMPILE_LANGUAGE:C,CXX>:-Wpointer-arith>
	$<$<COMPILE_LANGUAGE:C,CXX>:-Wvla> $<$<COMPILE_LANGUAGE:C,CXX>:-Wundef>
	$<$<COMPILE_LANGUAGE:C,CXX>:-fno-strict-overflow>)
add_compile_options($<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
	$<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wold-style-definition>)
add_compile_definitions(_GNU_SOURCE)
if(SKEP_WERROR)
	add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Werror>)
endif()
if(SKEP_SANITIZE)
	add_compile_options(-fsanitize=${SKEP_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
	add_link_options(-fsanitize=${SKEP_SANITIZE})
	if(SKEP_SANITIZE MATCHES "thread" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
		# TSan executes fences but draws no order from them, and gcc warns of each. Here they
		# order atomics alone; plain data is handed over by acquire and release.
		add_compile_options(-Wno-tsan)
	endif()
endif()
if(SKEP_FUZZ)
	# Every object counts its branches for libFuzzer; only the fuzzers link its main (tests/fuzz).
	add_compile_options(-fsanitize=fuzzer-no-link)
	add_link_options(-fsanitize=fuzzer-no-link)
endif()
if(SKEP_COVERAGE)
	# Atomic counters: the keeper and the movers pass the same lines at the same time.
	add_compile_options(--coverage -fprofile-update=atomic)
	add_link_options(--coverage)
endif()

# What sanitizers are told at run time, and how much longer a test may take under them.
set(SKEP_TEST_ENVIRONMENT
	"ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0"
	"UBSAN_OPTIONS=print_stacktrace=1"
	"TSAN_OPTIONS=second_deadlock_stack=1:suppressions=${CMAKE_CURRENT_LIST_DIR}/tsan.supp")
set(SKEP_TEST_SLOWER 1)
if(SKEP_SANITIZE MATCHES "thread")
	set(SKEP_TEST_SLOWER 4)
elseif(SKEP_SANITIZE OR SKEP_COVERAGE)
	set(SKEP_TEST_SLOWER 2)
endif()

# skep_module(NAME SOURCES … LINKS …): one static library a folder; headers are included from the root.
function(skep_module name)
	cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
	add_library(${name} STATIC ${ARG_SOURCES})
	target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
	target_link_libraries(${name} PUBLIC ${ARG_LINKS})
endfunction()

# skep_test_settings(NAME [LABELS …] [TIMEOUT s]): what each test of the project shares: 77 skips, the
# time limit (given for a build without sanitizers), the sanitizers' options. Labels with a meaning:
# `source` needs no build (runs first), `campaign` is a long count that `./dev test` leaves out,
# `single` runs in one thread (simulations, parsers): TSan, which only slows it, leaves it out.
function(skep_test_settings name)
	cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS" ${ARGN})
	if(NOT ARG_TIMEOUT)
		set(ARG_TIMEOUT 60)
	endif()
	math(EXPR seconds "${ARG_TIMEOUT} * ${SKEP_TEST_SLOWER}")
	set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${seconds}
		ENVIRONMENT "${SKEP_TEST_ENVIRONMENT}")
	if(ARG_LABELS)
		set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
	endif()
endfunction()

# skep_test(NAME SOURCES … LINKS … [ARGS …] [LABELS …] [TIMEOUT s]): a plain program; exit 0 passes,
# 77 skips. TIMEOUT counts for a build without sanitizers; it is stretched under them.
function(skep_test name)
	cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINKS;LABELS;ARGS" ${ARGN})
	add_executable(${name} ${ARG_SOURCES})
	target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
	target_link_libraries(${name} PRIVATE ${ARG_LINKS})
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
	add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
	skep_test_settings(${name} TIMEOUT ${ARG_TIMEOUT} LABELS ${ARG_LABELS})
endfunction()
