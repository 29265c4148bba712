/* A reader that costs next to nothing itself: open, read, close. Prints one line of JSON as bare_client does.
 *
 *   reader read FILE     one file from front to back in reads of 1 MiB
 *   reader stream FILE   the same, and what was read is let go of the page cache, so that a large file costs little memory
 *   reader small DIR     every DIR/x/y once in directory order; the time of listing the names is not counted, as in bare_client
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, KEPT_BYTES = 64 << 20, FILES_MAX = 1 << 20 };

static char buffer[BLOCK];

static void stop(const char *what)
{
    perror(what);
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static long long read_all(int directory, const char *name, int lets_go)
{
    long long bytes = 0, dropped = 0;
    ssize_t count;
    int file = openat(directory, name, O_RDONLY);
    if (file < 0)
        stop(name);
    while ((count = read(file, buffer, BLOCK)) > 0) {
        bytes += count;
        if (lets_go && bytes - dropped >= KEPT_BYTES) {
            posix_fadvise(file, 0, bytes, POSIX_FADV_DONTNEED);
            dropped = bytes;
        }
    }
    if (count < 0)
        stop(name);
    close(file);
    return bytes;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void report(double elapsed, long long bytes, long files)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\": %.6f, \"bytes\": %lld, \"files\": %ld, \"cpu_seconds\": %.3f, \"rss_kib\": %ld}\n",
           elapsed, bytes, files, cpu, usage.ru_maxrss);
}

static void read_one(const char *path, int lets_go)
{
    double begin = seconds();
    long long bytes = read_all(AT_FDCWD, path, lets_go);
    report(seconds() - begin, bytes, 1);
}

static void read_small(const char *path)
{
    static int directories[FILES_MAX];
    static char *names[FILES_MAX];
    struct dirent **subdirectories, **entries;
    long files = 0;
    long long bytes = 0;
    int root = open(path, O_RDONLY | O_DIRECTORY);
    int count = scandirat(root, ".", &subdirectories, visible, NULL);
    if (root < 0 || count < 0)
        stop(path);
    for (int i = 0; i < count; i++) {
        int directory = openat(root, subdirectories[i]->d_name, O_RDONLY | O_DIRECTORY);
        int inside = scandirat(directory, ".", &entries, visible, NULL);
        if (directory < 0 || inside < 0)
            stop(subdirectories[i]->d_name);
        for (int j = 0; j < inside && files < FILES_MAX; j++, files++) {
            directories[files] = directory;
            names[files] = entries[j]->d_name;
        }
    }
    double begin = seconds();
    for (long i = 0; i < files; i++)
        bytes += read_all(directories[i], names[i], 0);
    report(seconds() - begin, bytes, files);
}

int main(int count, char **arguments)
{
    if (count == 3 && !strcmp(arguments[1], "read"))
        read_one(arguments[2], 0);
    else if (count == 3 && !strcmp(arguments[1], "stream"))
        read_one(arguments[2], 1);
    else if (count == 3 && !strcmp(arguments[1], "small"))
        read_small(arguments[2]);
    else {
        fprintf(stderr, "usage: reader read FILE | stream FILE | small DIR\n");
        return 2;
    }
    return 0;
}
