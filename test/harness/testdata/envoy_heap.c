// Envoy frees what these functions of the C library allocate, with an allocator of its own. Beside
// AddressSanitizer, which gives the C library another allocator, they have to use Envoy's.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// The executable of Envoy has it. A program without it, such as a shell, is not to be
// started with this library.
extern void *__libc_malloc(size_t size) __attribute__((weak));

char *strdup(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = __libc_malloc(size);
  return copy ? memcpy(copy, text, size) : NULL;
}

char *realpath(const char *restrict path, char *restrict into) {
  char own[PATH_MAX], *(*next)(const char *, char *) = dlsym(RTLD_NEXT, "realpath");
  if (into) return next(path, into);
  return next(path, own) ? strdup(own) : NULL;
}

char *getcwd(char *into, size_t size) {
  char own[PATH_MAX], *(*next)(char *, size_t) = dlsym(RTLD_NEXT, "getcwd");
  if (into) return next(into, size);
  return next(own, sizeof own) ? strdup(own) : NULL;
}

int vasprintf(char **into, const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  int size = vsnprintf(NULL, 0, format, again);
  va_end(again);
  if (size < 0 || !(*into = __libc_malloc((size_t)size + 1))) return -1;
  return vsnprintf(*into, (size_t)size + 1, format, args);
}
