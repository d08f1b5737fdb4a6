#include "core/processors.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "core/control_group.h"

#if defined(_WIN32)
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif defined(__APPLE__)
#include <pthread.h>
#include <sys/sysctl.h>

#include <cstring>
#elif defined(__linux__)
#include <sched.h>
#endif

namespace chatglm {
namespace {

int logical_processors() {
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// "0-3,8" as 0, 1, 2, 3, 8; what is no such list gives what came before.
std::set<int> read_processor_list(const std::string& path) {
    std::ifstream file(path);
    std::set<int> processors;
    int first = 0;
    while (file >> first) {
        int last = first;
        if (file.peek() == '-') {
            file.get();
            if (!(file >> last)) break;
        }
        constexpr int kMost = 1 << 16;
        for (int i = first; i <= std::min(last, first + kMost); ++i) processors.insert(i);
        if (file.get() != ',') break;
    }
    return processors;
}

// Processors whose time this process may use by its control groups: 1.5 is a quota of three halves of one.
double processor_quota(const std::string& root) {
    double least = 1e9;
    for (const std::string& group : control_groups(root, "cpu")) {
        auto limit = read_numbers(group + "/cpu.max");  // "quota period", or "max period"
        if (limit.size() != 2) {
            limit = read_numbers(group + "/cpu.cfs_quota_us");
            const auto period = read_numbers(group + "/cpu.cfs_period_us");
            limit.insert(limit.end(), period.begin(), period.end());
        }
        if (limit.size() != 2 || limit[0] <= 0 || limit[1] <= 0) continue;
        least = std::min(least, static_cast<double>(limit[0]) / static_cast<double>(limit[1]));
    }
    return least;
}

}  // namespace

int count_fast_cores(const std::vector<int64_t>& speeds) {
    if (speeds.empty()) return 1;
    const int64_t fastest = *std::max_element(speeds.begin(), speeds.end());
    // Chips with three kinds have a few cores somewhat faster than their big ones (1024 against 750 to 870 as
    // Linux counts), and little ones at 250 to 500.
    return static_cast<int>(
        std::count_if(speeds.begin(), speeds.end(), [&](int64_t speed) { return 3 * speed >= 2 * fastest; }));
}

int count_linux_cores(const std::string& root, const std::vector<int>& allowed) {
    const std::string devices = root + "/sys/devices/";
    // Hybrid Intel chips list their kinds; these processors are the performance cores.
    const std::set<int> intel_fast = read_processor_list(devices + "cpu_core/cpus");
    std::map<std::string, int64_t> cores;  // by the processors that share one
    for (const int processor : allowed) {
        const std::string folder = devices + "system/cpu/cpu" + std::to_string(processor);
        std::string siblings;
        std::ifstream file(folder + "/topology/thread_siblings_list");
        if (!std::getline(file, siblings)) siblings = std::to_string(processor);
        const auto capacity = read_numbers(folder + "/cpu_capacity");
        int64_t speed = capacity.empty() ? 1024 : capacity.front();
        if (!intel_fast.empty()) speed = intel_fast.count(processor) ? 1024 : 512;
        cores[siblings] = std::max(cores[siblings], speed);
    }
    std::vector<int64_t> speeds;
    for (const auto& [siblings, speed] : cores) speeds.push_back(speed);
    const double quota = processor_quota(root);
    const int fast = count_fast_cores(speeds);
    return quota < fast ? std::max(1, static_cast<int>(std::ceil(quota))) : fast;
}

int count_apple_cores(const SystemControl& sysctl) {
    const auto number = [&](const std::string& name) {
        const std::string text = sysctl(name).value_or("");
        int value = 0;
        std::from_chars(text.data(), text.data() + text.size(), value);
        return std::clamp(value, 0, 1 << 16);
    };
    // Level 0 is the fastest kind, whatever it is called: "Performance", and from M5 on "Super". Beside super
    // cores those called "Performance" are nearly as fast (4.4 GHz to 4.6 on an M5 Pro); "Efficiency" is the
    // slow kind.
    constexpr int kMostLevels = 16;
    const int n_levels = std::clamp(number("hw.nperflevels"), 1, kMostLevels);
    int cores = 0;
    for (int i = 0; i < n_levels; ++i) {
        const std::string level = "hw.perflevel" + std::to_string(i);
        const std::string kind = sysctl(level + ".name").value_or("");
        if (i == 0 || kind == "Super" || kind == "Performance") cores += number(level + ".physicalcpu");
    }
    return cores > 0 ? cores : number("hw.physicalcpu");  // Intel's have no levels
}

#if defined(_WIN32)

namespace {

// Efficiency class of each physical core that this process may use: higher is faster.
std::vector<int> efficiency_classes() {
    DWORD size = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &size);
    std::vector<char> buffer(size);
    auto* first = reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(buffer.data());
    if (size == 0 || !GetLogicalProcessorInformationEx(RelationProcessorCore, first, &size)) return {};
    DWORD_PTR process_mask = 0, system_mask = 0;
    USHORT groups[64], n_groups = 64;
    // Of a process in several groups the mask says nothing.
    const bool one_group = GetProcessGroupAffinity(GetCurrentProcess(), &n_groups, groups) && n_groups == 1 &&
                           GetProcessAffinityMask(GetCurrentProcess(), &process_mask, &system_mask) &&
                           process_mask != 0;
    std::vector<int> classes;
    for (DWORD offset = 0; offset < size;) {
        const auto& info =
            *reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(buffer.data() + offset);
        const GROUP_AFFINITY& mask = info.Processor.GroupMask[0];
        const bool usable = !one_group || (mask.Group == groups[0] && (mask.Mask & process_mask) != 0);
        if (usable) classes.push_back(info.Processor.EfficiencyClass);
        offset += info.Size;
    }
    return classes;
}

int count_fastest(const std::vector<int>& classes) {
    if (classes.empty()) return logical_processors();
    return static_cast<int>(
        std::count(classes.begin(), classes.end(), *std::max_element(classes.begin(), classes.end())));
}

// Processors that the system prefers for a thread, those of the fastest class; none when all are alike.
std::vector<ULONG> fast_processor_sets() {
    ULONG size = 0;
    GetSystemCpuSetInformation(nullptr, 0, &size, GetCurrentProcess(), 0);
    std::vector<char> buffer(size);
    auto* first = reinterpret_cast<SYSTEM_CPU_SET_INFORMATION*>(buffer.data());
    if (size == 0 || !GetSystemCpuSetInformation(first, size, &size, GetCurrentProcess(), 0)) return {};
    std::map<int, std::vector<ULONG>> sets;
    for (ULONG offset = 0; offset < size;) {
        const auto& info = *reinterpret_cast<SYSTEM_CPU_SET_INFORMATION*>(buffer.data() + offset);
        if (info.Type == CpuSetInformation) sets[info.CpuSet.EfficiencyClass].push_back(info.CpuSet.Id);
        offset += info.Size;
    }
    return sets.size() > 1 ? sets.rbegin()->second : std::vector<ULONG>{};
}

}  // namespace

int default_thread_count() {
    return count_fastest(efficiency_classes());
}

void prefer_fast_cores(int n_threads) {
    // Full speed also while the window is in the background, which else means the efficiency cores.
    THREAD_POWER_THROTTLING_STATE full_speed{};
    full_speed.Version = THREAD_POWER_THROTTLING_CURRENT_VERSION;
    full_speed.ControlMask = THREAD_POWER_THROTTLING_EXECUTION_SPEED;
    SetThreadInformation(GetCurrentThread(), ThreadPowerThrottling, &full_speed, sizeof full_speed);
    // More threads than fast cores want the slow ones too.
    if (n_threads > default_thread_count()) return;
    const std::vector<ULONG> sets = fast_processor_sets();
    if (!sets.empty())
        SetThreadSelectedCpuSets(GetCurrentThread(), sets.data(), static_cast<ULONG>(sets.size()));
}

#elif defined(__APPLE__)

namespace {

// A text by its characters, a number by its 4 or 8 bytes: sysctl does not say which it is, so the name must.
std::optional<std::string> system_control(const std::string& name) {
    char bytes[64] = {};
    size_t size = sizeof bytes - 1;
    if (sysctlbyname(name.c_str(), bytes, &size, nullptr, 0) != 0) return std::nullopt;
    if (name.ends_with(".name")) return std::string(bytes);
    int64_t value = 0;
    std::memcpy(&value, bytes, std::min(size, sizeof value));  // little-endian, and never negative
    return std::to_string(value);
}

}  // namespace

int default_thread_count() {
    const int cores = count_apple_cores(system_control);
    return cores > 0 ? cores : logical_processors();
}

void prefer_fast_cores(int) {
    // Somebody waits for the reply: lower classes may be moved to the efficiency cores.
    pthread_set_qos_class_self_np(QOS_CLASS_USER_INTERACTIVE, 0);
}

#elif defined(__linux__)

int default_thread_count() {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return logical_processors();
    std::vector<int> allowed;
    for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
        if (CPU_ISSET(processor, &mask)) allowed.push_back(processor);
    }
    return count_linux_cores("", allowed);
}

// Linux moves threads that are busy all the time to the faster cores by itself.
void prefer_fast_cores(int) {}

#else

int default_thread_count() {
    return logical_processors();
}

void prefer_fast_cores(int) {}

#endif

}  // namespace chatglm
