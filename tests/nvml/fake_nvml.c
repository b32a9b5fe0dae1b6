/* A libnvidia-ml.so that plays what a scenario file says: the functions that the gateway calls, no more. Tests compile it
 * with -DSCENARIO_VAR="NAME" (an environment variable that names the file) or -DSCENARIO="path". The file is read anew at
 * every call, so that a test changes what happens while the gateway runs. Lines, all optional but `gpu`:
 *
 *   init CODE                        what nvmlInit answers (18: driver and library differ)
 *   hang MS                          every call sleeps this long before it answers
 *   gpu INDEX UUID key=value …       status temp slowdown throttle used total util power energy ecc
 *   event SERIAL INDEX TYPE DATA     told once to each listener; SERIAL rises
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define TIMEOUT 10
#define GPUS 8
#define SETS 64

typedef unsigned long long u64;

struct memory { unsigned version; u64 total, reserved, free, used; };
struct told { void *device; u64 type, data; unsigned gi, ci; };

struct gpu {
    int listed;
    char uuid[96];
    u64 status, temp, slowdown, throttle, used, total, util, power, energy, ecc;
};

struct event { u64 serial, gpu, type, data; };

struct scenario {
    u64 init, hang;
    struct gpu gpus[GPUS];
    struct event events[64];
    int event_count;
};

/* Handles are small numbers, never addresses: a device's index + 1, a set's index + 1. */
static struct { int used; u64 gpu, last; } sets[SETS];

static const char *path(void) {
#ifdef SCENARIO
    return SCENARIO;
#else
    const char *named = getenv(SCENARIO_VAR);
    return named ? named : "/nonexistent";
#endif
}

static void set_field(struct gpu *gpu, const char *key, u64 value) {
    if (!strcmp(key, "status")) gpu->status = value;
    else if (!strcmp(key, "temp")) gpu->temp = value;
    else if (!strcmp(key, "slowdown")) gpu->slowdown = value;
    else if (!strcmp(key, "throttle")) gpu->throttle = value;
    else if (!strcmp(key, "used")) gpu->used = value;
    else if (!strcmp(key, "total")) gpu->total = value;
    else if (!strcmp(key, "util")) gpu->util = value;
    else if (!strcmp(key, "power")) gpu->power = value;
    else if (!strcmp(key, "energy")) gpu->energy = value;
    else if (!strcmp(key, "ecc")) gpu->ecc = value;
}

static void read_gpu(struct scenario *scene, char *rest) {
    unsigned index;
    char uuid[96];
    int used = 0;
    if (sscanf(rest, "%u %95s%n", &index, uuid, &used) != 2 || index >= GPUS) return;
    struct gpu *gpu = &scene->gpus[index];
    gpu->listed = 1;
    strcpy(gpu->uuid, uuid);
    for (char *word = strtok(rest + used, " \n"); word; word = strtok(NULL, " \n")) {
        char *value = strchr(word, '=');
        if (!value) continue;
        *value++ = 0;
        set_field(gpu, word, strtoull(value, NULL, 10));
    }
}

static struct scenario play(void) {
    struct scenario scene;
    memset(&scene, 0, sizeof scene);
    FILE *file = fopen(path(), "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        struct event event;
        if (sscanf(line, "init %llu", &scene.init) == 1 || sscanf(line, "hang %llu", &scene.hang) == 1) continue;
        if (sscanf(line, "event %llu %llu %llu %llu", &event.serial, &event.gpu, &event.type, &event.data) == 4) {
            if (scene.event_count < 64) scene.events[scene.event_count++] = event;
        } else if (!strncmp(line, "gpu ", 4)) {
            read_gpu(&scene, line + 4);
        }
    }
    if (file) fclose(file);
    struct timespec pause = { (time_t)(scene.hang / 1000), (long)(scene.hang % 1000) * 1000000 };
    if (scene.hang) nanosleep(&pause, NULL);
    return scene;
}

/* The device behind a handle, or why it cannot be asked. */
static int device(void *handle, struct gpu *out) {
    u64 index = (u64)(size_t)handle - 1;
    if (index >= GPUS) return INVALID_ARGUMENT;
    struct scenario scene = play();
    *out = scene.gpus[index];
    if (!out->listed) return 15;
    return (int)out->status;
}

#define ASK(handle) struct gpu gpu; int code = device(handle, &gpu); if (code) return code

int nvmlInit_v2(void) { return (int)play().init; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "fake"; }

int nvmlSystemGetDriverVersion(char *out, unsigned length) {
    snprintf(out, length, "580.00");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    struct scenario scene = play();
    *count = 0;
    for (int index = 0; index < GPUS; index++) *count += (unsigned)scene.gpus[index].listed;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    struct scenario scene = play();
    for (unsigned at = 0, seen = 0; at < GPUS; at++) {
        if (!scene.gpus[at].listed || seen++ != index) continue;
        *out = (void *)(size_t)(at + 1);
        return (int)scene.gpus[at].status;
    }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetName(void *handle, char *out, unsigned length) {
    ASK(handle);
    snprintf(out, length, "Fake GPU");
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *out, unsigned length) {
    ASK(handle);
    snprintf(out, length, "%s", gpu.uuid);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory *out) {
    ASK(handle);
    out->total = gpu.total;
    out->used = gpu.used;
    out->free = gpu.total - gpu.used;
    out->reserved = 0;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned out[2]) {
    ASK(handle);
    out[0] = (unsigned)gpu.util;
    out[1] = 0;
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
    (void)sensor;
    ASK(handle);
    *out = (unsigned)gpu.temp;
    return OK;
}

int nvmlDeviceGetTemperatureThreshold(void *handle, int kind, unsigned *out) {
    (void)kind;
    ASK(handle);
    if (!gpu.slowdown) return NOT_SUPPORTED;
    *out = (unsigned)gpu.slowdown;
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, u64 *out) {
    ASK(handle);
    *out = gpu.throttle;
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) {
    ASK(handle);
    *out = (unsigned)gpu.power;
    return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, u64 *out) {
    ASK(handle);
    *out = gpu.energy;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, u64 *out) {
    (void)kind;
    (void)counter;
    ASK(handle);
    *out = gpu.ecc;
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(void *handle, u64 *out) {
    ASK(handle);
    *out = 2 | 8;
    return OK;
}

int nvmlEventSetCreate(void **out) {
    for (size_t at = 0; at < SETS; at++) {
        if (sets[at].used) continue;
        sets[at].used = 1;
        *out = (void *)(at + 1);
        return OK;
    }
    return 999;
}

int nvmlEventSetFree(void *set) {
    sets[(size_t)set - 1].used = 0;
    return OK;
}

int nvmlDeviceRegisterEvents(void *handle, u64 types, void *set) {
    (void)types;
    struct scenario scene = play();
    sets[(size_t)set - 1].gpu = (u64)(size_t)handle - 1;
    /* What happened before anybody listened is not told. */
    sets[(size_t)set - 1].last = 0;
    for (int at = 0; at < scene.event_count; at++) {
        if (scene.events[at].serial > sets[(size_t)set - 1].last) sets[(size_t)set - 1].last = scene.events[at].serial;
    }
    return OK;
}

int nvmlEventSetWait_v2(void *set, struct told *out, unsigned timeout) {
    (void)timeout;
    struct scenario scene = play();
    size_t of = (size_t)set - 1;
    for (int at = 0; at < scene.event_count; at++) {
        struct event *event = &scene.events[at];
        if (event->gpu != sets[of].gpu || event->serial <= sets[of].last) continue;
        sets[of].last = event->serial;
        out->device = (void *)(size_t)(event->gpu + 1);
        out->type = event->type;
        out->data = event->data;
        return OK;
    }
    return TIMEOUT;
}
