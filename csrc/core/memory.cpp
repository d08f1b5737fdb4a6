#include "core/memory.h"

#include <algorithm>
#include <cstdio>

#include "core/control_group.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// After windows.h, which it needs. Version 2 of it is part of kernel32.
#define PSAPI_VERSION 2
#include <psapi.h>
#elif defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#else
#include <unistd.h>
#endif

namespace chatglm {
namespace {

// Narrows `state` to what the control group in `folder` leaves; its numbers are in files of these names.
void limit_by_group(MemoryState& state, const std::string& folder, const char* limit_name,
                    const char* usage_name, const char* file_prefix) {
    const auto limit = read_numbers(folder + "/" + limit_name);
    if (limit.empty() || limit[0] <= 0 || (state.total > 0 && limit[0] >= state.total)) return;
    state.total = limit[0];
    const auto usage = read_numbers(folder + "/" + usage_name);
    if (usage.empty()) return;
    // Pages of files count as used, but give way.
    int64_t used = usage[0];
    for (const char* list : {"inactive_file", "active_file"}) {
        used -= read_number_of(folder + "/memory.stat", std::string(file_prefix) + list).value_or(0);
    }
    const int64_t left = std::max<int64_t>(limit[0] - std::max<int64_t>(used, 0), 1);  // 0 is unknown
    state.available = state.available > 0 ? std::min(state.available, left) : left;
}

}  // namespace

MemoryState linux_memory_state(const std::string& root) {
    const auto kilobytes = [&](const char* key) {
        constexpr int64_t kMost = int64_t{1} << 50;
        return std::clamp<int64_t>(read_number_of(root + "/proc/meminfo", key).value_or(0), 0, kMost) * 1024;
    };
    MemoryState state;
    state.total = kilobytes("MemTotal:");
    state.available = kilobytes("MemAvailable:");
    for (const std::string& group : control_groups(root, "memory")) {
        limit_by_group(state, group, "memory.max", "memory.current", "");
        limit_by_group(state, group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_");
    }
    // Without knowing what a group may swap, everything.
    if (state.total > 0) state.fatal = state.total + kilobytes("SwapTotal:");
    return state;
}

std::string memory_text(int64_t bytes) {
    const bool large = bytes >= 100'000'000;
    char text[32];
    std::snprintf(text, sizeof text, "%.1f %s", static_cast<double>(bytes) / (large ? 1e9 : 1e6),
                  large ? "GB" : "MB");
    return text;
}

#if defined(_WIN32)

MemoryState memory_state() {
    MEMORYSTATUSEX status{};
    status.dwLength = sizeof status;
    if (!GlobalMemoryStatusEx(&status)) return {};
    return {static_cast<int64_t>(status.ullTotalPhys), static_cast<int64_t>(status.ullAvailPhys), 0};
}

int64_t resident_memory() {
    PROCESS_MEMORY_COUNTERS counters{};
    if (!GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters)) return 0;
    return static_cast<int64_t>(counters.WorkingSetSize);
}

#elif defined(__APPLE__)

MemoryState memory_state() {
    MemoryState state;
    int64_t total = 0;
    size_t size = sizeof total;
    if (sysctlbyname("hw.memsize", &total, &size, nullptr, 0) == 0) state.total = total;
    const mach_port_t host = mach_host_self();
    vm_size_t page = 0;
    vm_statistics64_data_t pages{};
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    if (host_page_size(host, &page) == KERN_SUCCESS &&
        host_statistics64(host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count) ==
            KERN_SUCCESS) {
        // Speculative pages are counted among the free ones and among those of files.
        const int64_t free = int64_t{pages.free_count} - pages.speculative_count;
        state.available =
            (free + pages.external_page_count + pages.purgeable_count) * static_cast<int64_t>(page);
    }
    mach_port_deallocate(mach_task_self(), host);
    return state;
}

int64_t resident_memory() {
    mach_task_basic_info info{};
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info), &count) !=
        KERN_SUCCESS) {
        return 0;
    }
    return static_cast<int64_t>(info.resident_size);
}

#else

MemoryState memory_state() {
    return linux_memory_state("");
}

int64_t resident_memory() {
    const auto pages = read_numbers("/proc/self/statm");  // total, resident, ...
    return pages.size() < 2 ? 0 : pages[1] * sysconf(_SC_PAGESIZE);
}

#endif

}  // namespace chatglm
