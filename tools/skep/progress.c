/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/text.h"

void progress_show(const struct progress *progress)
{
	char bar[31], bytes[TEXT_SHORT_BYTES];

	if (!isatty(STDERR_FILENO))
		return;
	text_bytes(bytes, progress->bytes);
	memset(bar, '.', sizeof(bar) - 1);
	memset(bar, '#', progress->percent * (sizeof(bar) - 1) / 100);
	bar[sizeof(bar) - 1] = '\0';
	fprintf(stderr, "\r[%s] %3u %%  %s, %llu blocks, %llu bad ", bar, progress->percent, bytes,
		(unsigned long long)progress->blocks, (unsigned long long)progress->bad);
}

void progress_end(const struct progress *progress)
{
	if (isatty(STDERR_FILENO) && progress->percent)
		fputc('\n', stderr);
}

void progress_pace(const struct progress *progress)
{
	uint64_t due_ns, now_ns = clock_ns();

	if (!progress->rate)
		return;
	due_ns = progress->began_ns +
		 (uint64_t)((double)progress->bytes / (double)progress->rate * (double)NS_PER_S);
	if (due_ns > now_ns)
		nanosleep(&(struct timespec){.tv_sec = (time_t)((due_ns - now_ns) / NS_PER_S),
				  .tv_nsec = (long)((due_ns - now_ns) % NS_PER_S)},
			NULL);
}
