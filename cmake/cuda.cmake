# The CUDA code of kernels/: compiled by nvcc alone, embedded as bytes, loaded through libcuda at run
# time. CMake's own CUDA language is left out: it wants to link programs against the CUDA runtime,
# which nothing here uses, and which a machine that only compiles need not have.
#
# SKEP_HAVE_CUDA says whether kernels/ builds its CUDA back end or the stub (SKEP_CUDA).

set(SKEP_HAVE_CUDA OFF)
if(NOT SKEP_CUDA MATCHES "^(OFF|ON|AUTO)$")
	message(FATAL_ERROR "SKEP_CUDA is ${SKEP_CUDA}; one of OFF, ON, AUTO")
endif()
if(NOT SKEP_CUDA STREQUAL "OFF")
	# build/cuda is where `./dev` puts the compiler where the machine has none.
	file(GLOB places ${PROJECT_SOURCE_DIR}/build/cuda/lib/python3*/site-packages/nvidia/cu13/bin)
	find_program(SKEP_NVCC nvcc HINTS /usr/local/cuda/bin ${places}
		DOC "the CUDA compiler; 12.8 or later")
	if(SKEP_NVCC AND NOT SKEP_CUDA_INCLUDE)
		# The compiler is asked where its headers lie: PATH may have a link or a script.
		set(probe ${CMAKE_BINARY_DIR}/CMakeFiles/cuda_probe.cu)
		file(WRITE ${probe} "#include <cuda.h>\n")
		execute_process(COMMAND ${SKEP_NVCC} -M ${probe} OUTPUT_VARIABLE headers
			ERROR_VARIABLE trouble RESULT_VARIABLE result)
		if(result EQUAL 0 AND headers MATCHES "([^ \n]+)/cuda\\.h")
			set(SKEP_CUDA_INCLUDE ${CMAKE_MATCH_1} CACHE PATH "where cuda.h lies")
		else()
			message(WARNING "${SKEP_NVCC} does not find cuda.h, or does not work: ${trouble}")
		endif()
	endif()
	if(SKEP_NVCC AND SKEP_CUDA_INCLUDE)
		set(SKEP_HAVE_CUDA ON)
	elseif(SKEP_CUDA STREQUAL "ON")
		message(FATAL_ERROR "SKEP_CUDA is ON, and nvcc (${SKEP_NVCC}) or cuda.h"
			" (${SKEP_CUDA_INCLUDE}) is missing: put nvcc on PATH, give SKEP_NVCC and"
			" SKEP_CUDA_INCLUDE, or set SKEP_CUDA=OFF")
	endif()
endif()
message(STATUS "CUDA back end: ${SKEP_HAVE_CUDA} (nvcc ${SKEP_NVCC})")

# Machine code for Ampere and for Hopper with its own instructions (90a); anything else that is
# added here makes every fatbin longer. There is no PTX: what a driver compiles at start is neither
# tested nor fast.
set(SKEP_NVCC_FLAGS -std=c++17 -O3 -lineinfo --expt-relaxed-constexpr
	-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a)
if(SKEP_WERROR)
	list(APPEND SKEP_NVCC_FLAGS -Werror all-warnings)
endif()

# skep_cuda_images(OUT FILE.cu …): a C file that holds the compiled code of each, named by OUT.
function(skep_cuda_images out)
	set(images "")
	set(rows "")
	set(fatbins "")
	foreach(source ${ARGN})
		get_filename_component(name ${source} NAME_WE)
		set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.fatbin)
		add_custom_command(OUTPUT ${fatbin}
			COMMAND ${SKEP_NVCC} -fatbin ${SKEP_NVCC_FLAGS} -I${PROJECT_SOURCE_DIR}
				-MD -MF ${fatbin}.d -MT ${fatbin} -o ${fatbin} ${source}
			DEPENDS ${source} DEPFILE ${fatbin}.d VERBATIM
			COMMENT "nvcc kernels/cuda/${name}.cu")
		list(APPEND fatbins ${fatbin})
		string(APPEND images "IMAGE(${name}, \"${fatbin}\")\n")
		string(APPEND rows "\t{\"${name}\", image_${name}},\n")
	endforeach()
	configure_file(${PROJECT_SOURCE_DIR}/kernels/cuda/images.c.in
		${CMAKE_CURRENT_BINARY_DIR}/cuda/images.c @ONLY)
	set_source_files_properties(${CMAKE_CURRENT_BINARY_DIR}/cuda/images.c PROPERTIES
		OBJECT_DEPENDS "${fatbins}")
	set(${out} ${CMAKE_CURRENT_BINARY_DIR}/cuda/images.c PARENT_SCOPE)
endfunction()
