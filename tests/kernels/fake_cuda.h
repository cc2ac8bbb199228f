/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_KERNELS_FAKE_CUDA_H
#define SKEP_TESTS_KERNELS_FAKE_CUDA_H

/*
 * A libcuda.so.1 of this machine's memory, for what can be tested of the CUDA back end without a
 * device: that each call comes with the right context and the right arguments, and that a failure
 * of any of them leaves nothing behind. Work is done during the call that submits it; what a batch
 * of copies names must lie in one piece of memory that the device can reach. The calls below are
 * found in the opened library by dlsym, under these names.
 */

/* From now on the kernel @name is there, and is @work of one argument of @args_bytes. */
typedef void fake_cuda_kernel(const char *name, void (*work)(const void *), unsigned args_bytes);

/* Fails the @nth call from now (1 is the next) that does not end a thing; 0 disarms. */
typedef void fake_cuda_fail_nth(unsigned long nth);

/* Fails the next call that ends a thing: it is done, and refused. */
typedef void fake_cuda_fail_end(void);

/* How many calls of the first kind were made. */
typedef unsigned long fake_cuda_calls(void);

/* How many things were had and not given back; a device's context is one. */
typedef long fake_cuda_held(void);

#endif
