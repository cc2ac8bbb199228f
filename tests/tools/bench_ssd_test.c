/* SPDX-License-Identifier: Apache-2.0 */
/* What fio answers is read as it stands, and what is wrong with it is said. */
#include "tools/skep/bench_ssd.c"

#include <stdlib.h>

#include "tests/base/unit.h"

static char why[512];
static struct fio_result result;

/* As fio 3.33 prints it, cut down. */
static const char answer[] =
	"fio: a warning comes before\n"
	"{\n  \"fio version\" : \"fio-3.33\",\n  \"jobs\" : [\n    {\n"
	"      \"jobname\" : \"ceiling\", \"error\" : 0,\n"
	"      \"read\" : { \"io_bytes\" : 978845696, \"bw_bytes\" : 2147483648,\n"
	"        \"bw\" : 2097152, \"iops\" : 16384.5, \"clat_ns\" : { \"percentile\" : {\n"
	"          \"50.000000\" : 493568, \"99.000000\" : 814080 } } },\n"
	"      \"write\" : { \"bw_bytes\" : 1073741824, \"iops\" : 8192, \"clat_ns\" : {\n"
	"          \"min\" : 0 } }\n"
	"    }\n  ]\n}\n";

static void an_answer_is_read(void)
{
	REQUIRE_EQ(fio_parse(answer, false, &result, why, sizeof(why)), 0);
	REQUIRE(result.gib_s > 1.999 && result.gib_s < 2.001);
	REQUIRE(result.iops > 16384 && result.iops < 16385);
	REQUIRE_EQ(result.p50_ns, 493568);
	REQUIRE_EQ(result.p99_ns, 814080);
	REQUIRE_EQ(fio_parse(answer, true, &result, why, sizeof(why)), 0);
	REQUIRE(result.gib_s > 0.999 && result.gib_s < 1.001);
	REQUIRE_EQ(result.p99_ns, 0); /* not told */
}

static void refused(const char *text, int status, const char *part)
{
	*why = 0;
	REQUIRE_EQ(fio_parse(text, false, &result, why, sizeof(why)), status);
	if (!strstr(why, part))
		fprintf(stderr, "'%s' does not say '%s'\n", why, part);
	REQUIRE(strstr(why, part));
}

static void what_is_wrong_is_said(void)
{
	char cut[sizeof(answer)];

	refused("", -EPROTO, "did not answer in JSON");
	refused("fio: unrecognized option", -EPROTO, "unrecognized option");
	refused("{}", -EPROTO, "JSON");
	refused("{\"jobs\": 5}", -EPROTO, "JSON");
	refused("{\"jobs\": []}", -EPROTO, "JSON");
	refused("{\"jobs\": [{}]}", -EPROTO, "no bandwidth");
	refused("{\"jobs\": [{\"error\": 28}]}", -EIO, "No space left");
	refused("{\"jobs\": [{\"read\": {\"bw_bytes\": 0, \"iops\": 0}}]}", -EPROTO, "bandwidth");
	refused("{\"jobs\": [{\"read\": {\"bw_bytes\": \"1\", \"iops\": 0}}]}", -EPROTO,
		"bandwidth");
	/* Cut anywhere it is refused and never read past its end. */
	for (size_t length = 0; length < sizeof(answer) - 4; length++) {
		memcpy(cut, answer, length);
		cut[length] = 0;
		REQUIRE_EQ(fio_parse(cut, false, &result, why, sizeof(why)), -EPROTO);
	}
}

static void a_missing_fio_is_said(void)
{
	struct fio_run run = {"/nowhere/at/all", 1 << 20, 4096, 1, 1, false, NULL};
	char *path = strdup(getenv("PATH") ? getenv("PATH") : "/usr/bin");

	setenv("PATH", "/nowhere", 1);
	REQUIRE_EQ(fio_measure(&run, &result, why, sizeof(why)), -ENOENT);
	REQUIRE(strstr(why, "apt-get install fio"));
	setenv("PATH", path, 1);
	free(path);
	run.path = "/a:b";
	REQUIRE_EQ(fio_measure(&run, &result, why, sizeof(why)), -EINVAL);
	memory_fail_after(1, 0);
	REQUIRE_EQ(fio_measure(&run, &result, why, sizeof(why)), -ENOMEM);
	memory_fail_after(0, 0);
}

/* The program itself, where it is installed: its words are taken and its answer is understood. */
static void fio_itself_is_understood(void)
{
	char path[] = "/var/tmp/skep-fio-XXXXXX";
	int fd = mkstemp(path);
	struct fio_run run = {path, 8 << 20, 64 << 10, 4, 1, true, "psync"};
	int status;

	REQUIRE(fd >= 0);
	close(fd);
	status = fio_measure(&run, &result, why, sizeof(why));
	if (status == -ENOENT) {
		printf("%s: what it says itself is left out\n", why);
	} else if (status) {
		/* A file system without direct I/O, say. */
		printf("%s\n", why);
		REQUIRE(status == -EIO && *why);
	} else {
		REQUIRE(result.gib_s > 0 && result.iops > 0 && result.p99_ns >= result.p50_ns);
		run.write = false;
		REQUIRE_EQ(fio_measure(&run, &result, why, sizeof(why)), 0);
		printf("fio: %.2f GiB/s read, p99 %llu us\n", result.gib_s,
			(unsigned long long)result.p99_ns / 1000);
	}
	if (status != -ENOENT) {
		run.path = "/proc/nowhere/all"; /* fio makes folders where it can */
		REQUIRE_EQ(fio_measure(&run, &result, why, sizeof(why)), -EIO);
		printf("%s\n", why);
		REQUIRE(strstr(why, "/proc/nowhere/all: fio: "));
	}
	REQUIRE_EQ(unlink(path), 0);
}

int main(void)
{
	an_answer_is_read();
	what_is_wrong_is_said();
	a_missing_fio_is_said();
	fio_itself_is_understood();
	return 0;
}
