// A fiber is a stack and a place to go on: what a CUDA thread is to the emulator.
//
// Threads of the operating system would do, but a kernel has hundreds, and their order could not be chosen.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// simt_switch(&from, to): push what a call must preserve, leave the stack pointer in `from`, take up `to`.
extern "C" void simt_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
    .text
    .globl simt_switch
    .hidden simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl simt_switch
    .hidden simt_switch
    .type simt_switch, %function
simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size simt_switch, . - simt_switch
)");
#else
#error "simt_switch is written for x86-64 and aarch64"
#endif

namespace simt {

class Fiber {
  public:
    static constexpr size_t kPage = 65536;  // the largest page size of either architecture
    static constexpr size_t kStack = 4 * kPage;

    // Get ready to run `entry` from its beginning. What ran on the stack before has ended, or was `abandoned`.
    void reset(void (*entry)(), bool abandoned) {
        (void)abandoned;
        if (!stack_) allocate();
#if defined(__SANITIZE_ADDRESS__)
        if (abandoned) __asan_unpoison_memory_region(stack_, kStack);
        fake_stack_ = nullptr;
#endif
        auto** top = reinterpret_cast<void**>(stack_ + kStack);
#if defined(__x86_64__)
        top[-2] = reinterpret_cast<void*>(entry);  // simt_switch returns to it; top[-1] is its return address
        resume_ = top - 8;
#else
        resume_ = top - 20;
        static_cast<void**>(resume_)[11] = reinterpret_cast<void*>(entry);  // x30
#endif
    }

    // From the scheduler into the fiber, until it leaves.
    void enter() {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&scheduler_fake_stack_, stack_, kStack);
#endif
        simt_switch(&scheduler_, resume_);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
    }

    // From the fiber back to the scheduler; for good if it is `finished`.
    void leave(bool finished = false) {
        (void)finished;
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(finished ? nullptr : &fake_stack_, scheduler_stack_, scheduler_size_);
#endif
        simt_switch(&resume_, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
    }

    // The first thing on a new stack: AddressSanitizer learns which stack this one was entered from.
    static void arrived() {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_size_);
#endif
    }

  private:
    void allocate() {
        void* memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) __builtin_trap();
        mprotect(memory, kPage, PROT_NONE);  // a stack that overflows meets this page
        stack_ = static_cast<char*>(memory) + kPage;
    }

    char* stack_ = nullptr;
    void* resume_ = nullptr;
    inline static void* scheduler_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack_ = nullptr;
    inline static void* scheduler_fake_stack_ = nullptr;
    inline static const void* scheduler_stack_ = nullptr;
    inline static size_t scheduler_size_ = 0;
#endif
};

}  // namespace simt
