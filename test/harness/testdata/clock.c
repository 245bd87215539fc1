// A wall clock that differs from the machine's by the nanoseconds in the file
// that JWTB_TEST_CLOCK names. All other clocks are the machine's.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *step;

__attribute__((constructor)) static void find_clock(void) {
	const char *path = getenv("JWTB_TEST_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		abort();
	void *shared = mmap(0, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		abort();
	step = shared;
	close(fd);
}

int clock_gettime(clockid_t id, struct timespec *ts) {
	if (syscall(SYS_clock_gettime, id, ts) != 0)
		return -1;
	if ((id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) && step) {
		int64_t at = ts->tv_sec * INT64_C(1000000000) + ts->tv_nsec + *step;
		ts->tv_sec = at / 1000000000;
		ts->tv_nsec = at % 1000000000;
	}
	return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
	(void)zone;
	struct timespec ts;
	int failed = clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return failed;
}

time_t time(time_t *at) {
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (at)
		*at = ts.tv_sec;
	return ts.tv_sec;
}
