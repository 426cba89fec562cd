/* A disk that begins to fail while a process runs: preloaded, it looks at the number in the file FAILING_DISK. 1: reads of
 * files in the folder FAILING_FOLDER fail with EIO; 2: the folder is read-only, as ext4 makes itself after an error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { READS_FAIL = 1, READ_ONLY = 2 };

static const volatile int64_t *state;
static const char *folder;

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void open_the_file(void) {
    const char *path = getenv("FAILING_DISK");
    folder = getenv("FAILING_FOLDER");
    int file = path && folder ? REAL(open)(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *place = mmap(NULL, sizeof *state, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (place != MAP_FAILED) state = place;
}

static int is(int64_t wanted) { return state && *state == wanted; }

static int inside(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int open_inside(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

#define FAILS(wanted, file, error) \
    if (is(wanted) && open_inside(file)) { \
        errno = error; \
        return -1; \
    }

ssize_t pread64(int file, void *into, size_t count, off64_t at) {
    FAILS(READS_FAIL, file, EIO)
    return REAL(pread64)(file, into, count, at);
}

ssize_t pread(int file, void *into, size_t count, off_t at) { return pread64(file, into, count, at); }

ssize_t pwrite64(int file, const void *from, size_t count, off64_t at) {
    FAILS(READ_ONLY, file, EROFS)
    return REAL(pwrite64)(file, from, count, at);
}

ssize_t pwrite(int file, const void *from, size_t count, off_t at) { return pwrite64(file, from, count, at); }

int ftruncate64(int file, off64_t length) {
    FAILS(READ_ONLY, file, EROFS)
    return REAL(ftruncate64)(file, length);
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

static int opens(const char *path, int flags) {
    if (!is(READ_ONLY) || !inside(path) || (flags & O_ACCMODE) == O_RDONLY) return 1;
    errno = EROFS;
    return 0;
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    return opens(path, flags) ? REAL(open64)(path, flags, mode) : -1;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    return opens(path, flags) ? REAL(open)(path, flags, mode) : -1;
}

int unlink(const char *path) {
    if (is(READ_ONLY) && inside(path)) {
        errno = EROFS;
        return -1;
    }
    return REAL(unlink)(path);
}
