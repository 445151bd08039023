/*
 * A shim that lies about files, for the bars' positive controls (README.md "The bars"): with it a safeguard is gone, and the
 * check that the safeguard passes must fail.
 *
 *   cc -shared -fPIC -O1 -o lie.so tests/tools/lie.c -ldl
 *   LD_PRELOAD=$PWD/lie.so RESTIC_MANAGER_LIE=nosync restic-manager serve ...
 *
 * RESTIC_MANAGER_LIE names the lies, with commas between them:
 *   nosync   fsync and fdatasync do nothing and say that they did.
 *   swallow  fsync and fdatasync are done, and success is said whatever came of them.
 *   fullok   write, writev, ftruncate, fsync and fdatasync that fail because the disk is full (ENOSPC) are said to have succeeded.
 *   noflock  flock does nothing and says that the lock is ours.
 * Rust's std makes these calls through libc's functions of the same names (ftruncate64 for File::set_len).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* getenv alone: it allocates nothing, so it may be asked in any of these calls. */
static int lies(const char *name) {
    const char *lies = getenv("RESTIC_MANAGER_LIE");
    return lies != NULL && strstr(lies, name) != NULL;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether the last call failed for want of space and is to be called a success. */
static int hidden(ssize_t result) {
    return result < 0 && errno == ENOSPC && lies("fullok");
}

int fdatasync(int fd) {
    if (lies("nosync")) return 0;
    int result = REAL(fdatasync)(fd);
    return lies("swallow") || hidden(result) ? 0 : result;
}

int fsync(int fd) {
    if (lies("nosync")) return 0;
    int result = REAL(fsync)(fd);
    return lies("swallow") || hidden(result) ? 0 : result;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t result = REAL(write)(fd, bytes, count);
    return hidden(result) ? (ssize_t)count : result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t result = REAL(writev)(fd, parts, count);
    if (!hidden(result)) return result;
    result = 0;
    for (int i = 0; i < count; i++) result += (ssize_t)parts[i].iov_len;
    return result;
}

int ftruncate(int fd, off_t length) {
    int result = REAL(ftruncate)(fd, length);
    return hidden(result) ? 0 : result;
}

int ftruncate64(int fd, off64_t length) {
    int result = REAL(ftruncate64)(fd, length);
    return hidden(result) ? 0 : result;
}

int flock(int fd, int operation) {
    return lies("noflock") ? 0 : REAL(flock)(fd, operation);
}
