/* Preloaded into a process (LD_PRELOAD): counts the system calls by which anything below one folder reaches the disk,
 * and at the chosen one ends the process, cuts the power of its file system, or makes the call fail.
 *
 *   disk_arm(folder, number, what, value)   begin to count; act at call `number` (0: only count)
 *   disk_disarm()                           returns how many calls there were
 *   disk_calls()                            their names, one a line
 *
 * Not seen: what is written through mmap. SQLite does so with its -shm file, which holds nothing that it cannot rebuild.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 1, KILL_TORN = 2, CUT = 3, FAIL_ONCE = 4, FAIL_FROM = 5 };
#define EXT4_IOC_SHUTDOWN _IOR('X', 125, unsigned int)

static char below[PATH_MAX];
static atomic_int armed, count, chosen, what, value;
static char names[1 << 20];
static atomic_int names_end;

static int inside(const char *path) {
    size_t length = strlen(below);
    return strncmp(path, below, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static int path_inside(int folder, const char *path, char *found) {
    char base[PATH_MAX] = "", link[64];
    if (path[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 2);
        if (length < 0) return 0;
        base[length] = '/', base[length + 1] = '\0';
    }
    snprintf(found, PATH_MAX, "%.2000s%.2000s", base, path);
    return inside(found);
}

static int descriptor_inside(int descriptor, char *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, found, PATH_MAX - 1);
    if (length < 0) return 0;
    found[length] = '\0';
    return inside(found);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* 0: go on; 1: fail with errno set; 2: write a half of it, then die. */
static int step(const char *call, const char *path) {
    if (!armed) return 0;
    int number = ++count;
    int kept = errno, length = strlen(call) + strlen(path) - strlen(below) + 2;
    int at = atomic_fetch_add(&names_end, length);
    if (at + length < (int)sizeof names) {
        char line[PATH_MAX + 64];
        snprintf(line, sizeof line, "%s %s\n", call, path + strlen(below));
        memcpy(names + at, line, length);
    }
    errno = kept;
    if (chosen == 0 || (what == FAIL_FROM ? number < chosen : number != chosen)) return 0;
    switch (what) {
    case KILL:
        die();
        return 0;
    case KILL_TORN:
        return 2;
    case CUT: {
        unsigned int flag = value;
        char folder_of[PATH_MAX];
        snprintf(folder_of, sizeof folder_of, "%s", below);
        *strrchr(folder_of, '/') = '\0'; /* the folder itself may not be there yet */
        int folder = open(folder_of, O_RDONLY | O_DIRECTORY);
        if (ioctl(folder, EXT4_IOC_SHUTDOWN, &flag) != 0) perror("EXT4_IOC_SHUTDOWN");
        die();
        return 0;
    }
    default:
        errno = value;
        return 1;
    }
}

void disk_arm(const char *folder, int number, int does, int with) {
    snprintf(below, sizeof below, "%s", folder);
    count = 0;
    names_end = 0;
    chosen = number;
    what = does;
    value = with;
    memset(names, 0, sizeof names);
    armed = 1;
}

int disk_disarm(void) {
    armed = 0;
    return count;
}

const char *disk_calls(void) { return names; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_DESCRIPTOR(name, parameters, arguments)                                                                     \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        char path[PATH_MAX];                                                                                           \
        if (armed && descriptor_inside(descriptor, path)) {                                                            \
            int found = step(#name, path);                                                                             \
            if (found == 1) return -1;                                                                                 \
            if (found == 2) die();                                                                                     \
        }                                                                                                              \
        return real arguments;                                                                                         \
    }

ON_DESCRIPTOR(fsync, (int descriptor), (descriptor))
ON_DESCRIPTOR(fdatasync, (int descriptor), (descriptor))
ON_DESCRIPTOR(syncfs, (int descriptor), (descriptor))
ON_DESCRIPTOR(ftruncate, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(ftruncate64, (int descriptor, off64_t size), (descriptor, size))

#define ON_DATA(name, parameters, arguments, halved)                                                                   \
    ssize_t name parameters {                                                                                          \
        REAL(name);                                                                                                    \
        char path[PATH_MAX];                                                                                           \
        if (armed && descriptor_inside(descriptor, path)) {                                                            \
            int found = step(#name, path);                                                                             \
            if (found == 1) return -1;                                                                                 \
            if (found == 2) {                                                                                          \
                if (real halved < 0) perror(#name);                                                                    \
                die();                                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
        return real arguments;                                                                                         \
    }

ON_DATA(write, (int descriptor, const void *data, size_t size), (descriptor, data, size), (descriptor, data, size / 2))
ON_DATA(pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at),
        (descriptor, data, size / 2, at))
ON_DATA(pwrite64, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size, at),
        (descriptor, data, size / 2, at))
ON_DATA(writev, (int descriptor, const struct iovec *parts, int size), (descriptor, parts, size),
        (descriptor, parts, size / 2))

#define ON_PATH(name, parameters, arguments, folder, path)                                                             \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        char found[PATH_MAX];                                                                                          \
        if (armed && path_inside(folder, path, found)) {                                                               \
            int does = step(#name, found);                                                                             \
            if (does == 1) return -1;                                                                                  \
            if (does == 2) die();                                                                                      \
        }                                                                                                              \
        return real arguments;                                                                                         \
    }

ON_PATH(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_PATH(renameat, (int f, const char *from, int t, const char *to), (f, from, t, to), t, to)
ON_PATH(renameat2, (int f, const char *from, int t, const char *to, unsigned int flags), (f, from, t, to, flags), t, to)
ON_PATH(link, (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_PATH(linkat, (int f, const char *from, int t, const char *to, int flags), (f, from, t, to, flags), t, to)
ON_PATH(unlink, (const char *path), (path), AT_FDCWD, path)
ON_PATH(unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder, path)
ON_PATH(rmdir, (const char *path), (path), AT_FDCWD, path)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_PATH(truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path)

#define OPENS(name, parameters, real_arguments, folder)                                                                \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        char found[PATH_MAX];                                                                                          \
        if (armed && flags & (O_CREAT | O_TRUNC) && path_inside(folder, path, found)) {                                \
            int does = step(#name, found);                                                                             \
            if (does == 1) return -1;                                                                                  \
            if (does == 2) die();                                                                                      \
        }                                                                                                              \
        return real real_arguments;                                                                                    \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENS(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), folder)
OPENS(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), folder)
