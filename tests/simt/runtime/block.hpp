// What a kernel asks of the emulator: who it is, barriers, exchange within a warp, work that finishes later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace simt {

struct Place {  // in a kernel's source
    const char* file;
    int line;
};
#define SIMT_HERE (simt::Place{__FILE__, __LINE__})

struct Index {
    unsigned x, y, z;
};

// Of the thread that runs now. The scheduler sets them before it lets a thread go on.
extern Index thread_index, block_index, block_size, grid_size;
extern int lane;            // within the warp
extern int warp;            // within the block
extern unsigned long block_serial;  // counts all blocks that ever ran
extern char* dynamic_shared;

// End the launch with a message that names the block, the thread and the place.
[[noreturn]] void fail(Place place, const char* format, ...) __attribute__((format(printf, 2, 3)));

// --- barriers --------------------------------------------------------------------------------------------

struct Votes {
    int yes, all;
};

Votes block_barrier(Place place, bool vote);
void warpgroup_barrier(Place place);  // 128 threads, of four consecutive warps

// --- exchange within a warp ------------------------------------------------------------------------------

constexpr int kLanes = 32;
constexpr int kSlot = 64;  // bytes that a lane may publish
using Slots = const unsigned char (*)[kSlot];

// Wait for every living lane of `mask`, each of which publishes `bytes` bytes, and see what they published
// until this lane's next exchange. The slots of other lanes hold 0xFF.
Slots exchange(unsigned mask, const void* data, size_t bytes, Place place, const char* what);

template <class T>
T from_lane(unsigned mask, const T& value, int source, Place place, const char* what) {
    static_assert(sizeof(T) <= kSlot && std::is_trivially_copyable_v<T>);
    Slots slots = exchange(mask, &value, sizeof value, place, what);
    T result;
    memcpy(&result, slots[source], sizeof result);
    return result;
}

// --- work that finishes later ----------------------------------------------------------------------------

// Each thread has queues of work it has issued and not yet waited for, as cp.async and wgmma have on the GPU.
// commit() closes a group; wait(queue, n) lets all but the newest n groups take effect. Where work could take
// effect at any time, the schedules try both ends: at once in "reverse", not before the wait in the others.
enum Queue { kCopies, kProducts, kQueues };

struct Task {
    void (*run)(const void* work);
    alignas(8) unsigned char work[56];
};

void issue(Queue queue, const Task& task);
void commit(Queue queue);
void wait(Queue queue, int newest);
bool work_is_prompt();

template <class Work>
Task task_for(const Work& work) {
    static_assert(sizeof(Work) <= sizeof(Task::work) && std::is_trivially_copyable_v<Work>);
    Task task;
    task.run = [](const void* bytes) { (*static_cast<const Work*>(bytes))(); };
    memcpy(task.work, &work, sizeof work);
    return task;
}

// `work` is a lambda that captures by value, 56 bytes at most.
template <class Work>
void later(Queue queue, const Work& work) {
    if (work_is_prompt()) work();
    else issue(queue, task_for(work));
}

// `bytes` bytes from global to shared memory, the first `valid` of them copied and the others zero (cp.async).
// The destination holds 0xFF until the wait, so that it shows if it is read, or written over, too early.
void copy_later(void* to, const void* from, int valid, int bytes, Place place);

// --- shared memory ---------------------------------------------------------------------------------------

// A block finds 0xFF in shared memory, not what the last block left there.
inline void fresh(void* variable, size_t bytes, unsigned long& serial) {
    if (serial == block_serial) return;
    serial = block_serial;
    memset(variable, 0xFF, bytes);
}

inline void check_launch_bounds(unsigned threads, unsigned = 0, unsigned = 0) {
    if (block_size.x * block_size.y * block_size.z > threads)
        fail(SIMT_HERE, "a block of %u threads, above the %u of __launch_bounds__",
         block_size.x * block_size.y * block_size.z, threads);
}

}  // namespace simt
