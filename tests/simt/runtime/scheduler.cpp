// Runs a grid: blocks one after another, a fiber for each thread of a block, in an order that the schedule chooses.
//
// A thread runs until it must wait, at a barrier or in an exchange, or until it ends. What a kernel computes must
// not depend on who runs when; the schedules pull threads as far apart as barriers allow, each in its own way.

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "block.hpp"
#include "checks.hpp"
#include "fiber.hpp"

namespace simt {

Index thread_index, block_index, block_size, grid_size;
int lane, warp;
unsigned long block_serial;
char* dynamic_shared;

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kWarps = kMaxThreads / kLanes;
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kGroups = kMaxThreads / kGroupThreads;

enum Schedule { kForward, kReverse, kAdversarial };
enum Status { kReady, kWaiting, kDone };

bool same(Place a, Place b) { return a.line == b.line && !strcmp(a.file, b.file); }

struct PendingWork {
    std::vector<Task> tasks;
    std::vector<size_t> groups;  // for each committed group, how many of `tasks` end with it
};

struct Thread {
    Fiber fiber;
    Status status;
    Index index;
    int number, warp, lane;
    Place place;           // where it waits
    const char* awaiting;  // and for what
    PendingWork pending[kQueues];
};

// A place where a set of threads meet. Votes and data of one meeting stay while the next gathers.
struct Barrier {
    int alive, arrived;
    unsigned meeting;
    Place place;
    int first;  // the thread that came first
    int yes;
    Votes votes[2];
};

struct Exchange {
    unsigned mask, arrived;
    unsigned meeting;
    Place place;
    int first;
    unsigned char slots[2][kLanes][kSlot];
};

struct Warp {
    unsigned alive;
    std::deque<Exchange> exchanges;  // one for each mask ever used
};

struct Launch {
    void (*call)(void**);
    void** arguments;
    Schedule schedule;
    unsigned random;
    Thread threads[kMaxThreads];
    int count;
    int alive;
    Thread* running;  // null in the scheduler
    Barrier barrier;
    Barrier groups[kGroups];
    Warp warps[kWarps];
    char error[4096];
};
Launch& launch = *new Launch();  // never destroyed: kernels may run until the process ends

unsigned draw(unsigned below) {
    launch.random = launch.random * 1664525u + 1013904223u;
    return (launch.random >> 8) % below;
}

// --- waiting ---------------------------------------------------------------------------------------------

void wait_for(const char* what, Place place) {
    Thread& self = *launch.running;
    self.status = kWaiting;
    self.awaiting = what;
    self.place = place;
    self.fiber.leave();
}

void meet_here(bool first, Place& meeting_place, int& first_thread, Place place, const char* what) {
    if (first) {
        meeting_place = place;
        first_thread = launch.running->number;
    } else if (!same(meeting_place, place)) {
        fail(place, "divergent %s: thread %d came to the one at %s:%d", what, first_thread, meeting_place.file,
         meeting_place.line);
    }
}

// All living threads have come: let them go on.
void open(Barrier& barrier) {
    barrier.votes[barrier.meeting & 1] = {barrier.yes, barrier.alive};
    barrier.arrived = barrier.yes = 0;
    ++barrier.meeting;
    for (int i = 0; i < launch.count; ++i) {
        Thread& t = launch.threads[i];
        bool inside = &barrier == &launch.barrier || &barrier == &launch.groups[i / kGroupThreads];
        if (inside && t.status == kWaiting) t.status = kReady;
    }
}

Votes meet(Barrier& barrier, bool vote, Place place, const char* what) {
    meet_here(barrier.arrived == 0, barrier.place, barrier.first, place, what);
    unsigned meeting = barrier.meeting;
    barrier.yes += vote;
    if (++barrier.arrived == barrier.alive) open(barrier);
    else wait_for(what, place);
    return barrier.votes[meeting & 1];
}

void complete(Exchange& e, Warp& w) {
    unsigned members = e.mask & w.alive;
    e.arrived = 0;
    ++e.meeting;
    int first = static_cast<int>(&w - launch.warps) * kLanes;
    for (int i = 0; i < kLanes && first + i < launch.count; ++i) {
        Thread& t = launch.threads[first + i];
        if ((members >> i & 1) && t.status == kWaiting) t.status = kReady;
    }
}

Exchange& exchange_for(Warp& w, unsigned mask) {
    for (Exchange& e : w.exchanges)
        if (e.mask == mask) return e;
    w.exchanges.push_back({});
    w.exchanges.back().mask = mask;
    return w.exchanges.back();
}

// --- the life of a thread --------------------------------------------------------------------------------

// Not part of `live`, which never returns: AddressSanitizer would go on taking its variables for out of scope.
__attribute__((noinline)) void finish() {
    Thread& self = *launch.running;
    self.status = kDone;
  --launch.alive;
    Warp& w = launch.warps[self.warp];
    w.alive &= ~(1u << self.lane);
    // Whoever waits for this thread need not wait any longer.
    for (Exchange& e : w.exchanges)
        if (e.arrived && e.arrived == (e.mask & w.alive)) complete(e, w);
    Barrier& group = launch.groups[self.number / kGroupThreads];
    if (--group.alive == group.arrived && group.arrived) open(group);
    if (--launch.barrier.alive == launch.barrier.arrived && launch.barrier.arrived)
        open(launch.barrier);
}

void live() {
    Fiber::arrived();
    launch.call(launch.arguments);
    finish();
    launch.running->fiber.leave(true);
    __builtin_unreachable();
}

void run(Thread& t) {
    launch.running = &t;
    thread_index = t.index;
    warp = t.warp;
    lane = t.lane;
    t.fiber.enter();
    launch.running = nullptr;
}

bool failed() { return launch.error[0] != 0; }

// --- schedules -------------------------------------------------------------------------------------------

// Every thread in turn, by rising or falling number, each as far as it gets.
bool run_round(bool falling) {
    bool progress = false;
    for (int i = 0; i < launch.count && !failed(); ++i) {
        Thread& t = launch.threads[falling ? launch.count - 1 - i : i];
        if (t.status != kReady) continue;
        progress = true;
        run(t);
    }
    return progress;
}

// One warp, drawn at random, until all of it waits for other warps; its lanes up or down at random.
bool run_warp() {
    int ready[kWarps], count = 0;
    for (int i = 0; i < launch.count; ++i)
        if (launch.threads[i].status == kReady && (count == 0 || ready[count - 1] != i / kLanes))
            ready[count++] = i / kLanes;
    if (count == 0) return false;
    int first = ready[draw(count)] * kLanes;
    int last = first + kLanes < launch.count ? first + kLanes : launch.count;
    for (bool progress = true; progress && !failed();) {
        progress = false;
        bool falling = draw(2);
        for (int i = 0; i < last - first && !failed(); ++i) {
            Thread& t = launch.threads[falling ? last - 1 - i : first + i];
            if (t.status != kReady) continue;
            progress = true;
            run(t);
        }
    }
    return true;
}

void report_deadlock() {
    char* at = launch.error;
    char* end = launch.error + sizeof launch.error;
    at += snprintf(at, end - at, "deadlock in block (%u, %u, %u)", block_index.x, block_index.y, block_index.z);
    int shown = 0;
    for (int i = 0; i < launch.count && shown < 8; ++i) {
        const Thread& t = launch.threads[i];
        if (t.status != kWaiting) continue;
        at += snprintf(at, end - at, "\n  thread %d waits for %s at %s:%d", t.number, t.awaiting, t.place.file,
                   t.place.line);
        ++shown;
    }
    snprintf(at, end - at, "\n  %d of %d threads have not ended", launch.alive, launch.count);
}

void prepare(Thread& t, int number) {
    unsigned n = number;
    t.number = number;
    t.index = {n % block_size.x, n / block_size.x % block_size.y, n / block_size.x / block_size.y};
    t.warp = number / kLanes;
    t.lane = number % kLanes;
    t.fiber.reset(live, t.status != kDone);
    t.status = kReady;
    for (PendingWork& work : t.pending) work = {};
}

void run_block() {
    ++block_serial;
    launch.alive = launch.count;
    launch.barrier = {};
    launch.barrier.alive = launch.count;
    for (Barrier& group : launch.groups) group = {};
    for (Warp& w : launch.warps) {
        w.alive = 0;
        for (Exchange& e : w.exchanges) e.arrived = 0;
    }
    for (int i = 0; i < launch.count; ++i) {
        prepare(launch.threads[i], i);
        ++launch.groups[i / kGroupThreads].alive;
        launch.warps[i / kLanes].alive |= 1u << i % kLanes;
    }
    while (launch.alive && !failed()) {
        bool progress = launch.schedule == kAdversarial ? run_warp() : run_round(launch.schedule == kReverse);
        if (!progress && !failed()) report_deadlock();
    }
}

unsigned long block_at(unsigned long i, unsigned long blocks) {
    if (launch.schedule == kForward) return i;
    if (launch.schedule == kReverse) return blocks - 1 - i;
    return i % 2 ? blocks - 1 - i / 2 : i / 2;  // from both ends
}

class SharedMemory {
  public:
    explicit SharedMemory(size_t bytes) : bytes_(bytes), capacity_((bytes + 1023) / 1024 * 1024) {
        if (bytes) dynamic_shared = static_cast<char*>(aligned_alloc(1024, capacity_));
#if defined(__SANITIZE_ADDRESS__)
        if (bytes) __asan_poison_memory_region(dynamic_shared + bytes_, capacity_ - bytes_);
#endif
    }
    void refresh() {
        if (bytes_) memset(dynamic_shared, 0xFF, bytes_);
    }
    ~SharedMemory() {
#if defined(__SANITIZE_ADDRESS__)
        if (bytes_) __asan_unpoison_memory_region(dynamic_shared, capacity_);
#endif
        free(dynamic_shared);
        dynamic_shared = nullptr;
    }

  private:
    size_t bytes_, capacity_;
};

}  // namespace

// --- what kernels call -----------------------------------------------------------------------------------

void fail(Place place, const char* format, ...) {
    char* at = launch.error;
    char* end = launch.error + sizeof launch.error;
    at += snprintf(at, end - at, "%s:%d, block (%u, %u, %u), thread %d: ", place.file, place.line, block_index.x,
                 block_index.y, block_index.z, launch.running->number);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(at, end - at, format, arguments);
    va_end(arguments);
    launch.running->fiber.leave(true);
    __builtin_unreachable();
}

Votes block_barrier(Place place, bool vote) { return meet(launch.barrier, vote, place, "__syncthreads"); }

void warpgroup_barrier(Place place) {
    meet(launch.groups[launch.running->number / kGroupThreads], false, place, "a warpgroup's barrier");
}

Slots exchange(unsigned mask, const void* data, size_t bytes, Place place, const char* what) {
    Thread& self = *launch.running;
    Warp& w = launch.warps[self.warp];
    if (!(mask >> self.lane & 1)) fail(place, "%s: lane %d is not in the mask %08x", what, self.lane, mask);
    Exchange& e = exchange_for(w, mask);
    meet_here(e.arrived == 0, e.place, e.first, place, what);
    unsigned meeting = e.meeting & 1;
    if (e.arrived == 0) memset(e.slots[meeting], 0xFF, sizeof e.slots[meeting]);
    memcpy(e.slots[meeting][self.lane], data, bytes);
    e.arrived |= 1u << self.lane;
    if (e.arrived == (mask & w.alive)) complete(e, w);
    else wait_for(what, place);
    return e.slots[meeting];
}

bool work_is_prompt() { return launch.schedule == kReverse; }

void issue(Queue queue, const Task& task) { launch.running->pending[queue].tasks.push_back(task); }

void commit(Queue queue) {
    PendingWork& work = launch.running->pending[queue];
    work.groups.push_back(work.tasks.size());
}

void wait(Queue queue, int newest) {
    PendingWork& work = launch.running->pending[queue];
    if (static_cast<int>(work.groups.size()) <= newest) return;
    size_t groups = work.groups.size() - newest, tasks = work.groups[groups - 1];
    for (size_t i = 0; i < tasks; ++i) work.tasks[i].run(work.tasks[i].work);
    work.tasks.erase(work.tasks.begin(), work.tasks.begin() + tasks);
    work.groups.erase(work.groups.begin(), work.groups.begin() + groups);
    for (size_t& end : work.groups) end -= tasks;
}

void copy_later(void* to, const void* from, int valid, int bytes, Place place) {
    auto misaligned = [bytes](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes != 0; };
    if (misaligned(to) || (valid && misaligned(from)))
        fail(place, "an asynchronous copy of %d bytes from %p to %p is not aligned", bytes, from, to);
    memset(to, 0xFF, bytes);
    issue(kCopies, task_for([=] {
                    if (valid) memcpy(to, from, valid);
                    memset(static_cast<char*>(to) + valid, 0, bytes - valid);
                }));
}

}  // namespace simt

// Run a kernel; null, or what went wrong. Python has checked the arguments and the sizes.
extern "C" const char* simt_launch(void (*call)(void**), void** arguments, const unsigned* grid,
                                   const unsigned* block, size_t shared_bytes, int schedule, unsigned seed) {
    using namespace simt;
    launch.call = call;
    launch.arguments = arguments;
    launch.schedule = static_cast<Schedule>(schedule);
    launch.random = seed;
    launch.error[0] = 0;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    launch.count = block[0] * block[1] * block[2];
    SharedMemory shared(shared_bytes);
    unsigned long blocks = 1ul * grid[0] * grid[1] * grid[2];
    for (unsigned long i = 0; i < blocks && !failed(); ++i) {
        unsigned long b = block_at(i, blocks);
        block_index = {static_cast<unsigned>(b % grid[0]), static_cast<unsigned>(b / grid[0] % grid[1]),
                   static_cast<unsigned>(b / grid[0] / grid[1])};
        shared.refresh();
        run_block();
    }
    return failed() ? launch.error : nullptr;
}
