#include "core/machine.h"

#include <algorithm>
#include <fstream>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace chatglm {

#if defined(_WIN32)

std::string processor_name() {
    char name[256];
    DWORD size = sizeof name;
    if (RegGetValueA(HKEY_LOCAL_MACHINE, "HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                     "ProcessorNameString", RRF_RT_REG_SZ, nullptr, name, &size) != ERROR_SUCCESS) {
        return "";
    }
    return name;
}

int64_t last_level_cache() {
    return 0;
}

#elif defined(__APPLE__)

namespace {

int64_t system_number(const char* name) {
    int64_t value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

}  // namespace

std::string processor_name() {
    char name[256] = {};
    size_t size = sizeof name - 1;
    return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "";
}

int64_t last_level_cache() {
    return std::max(system_number("hw.l3cachesize"), system_number("hw.l2cachesize"));
}

#else

std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("model name", 0) != 0) continue;
        const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
        return start == std::string::npos ? "" : line.substr(start);
    }
    return "";
}

int64_t last_level_cache() {
    // One line such as "32768K" for each level.
    int64_t largest = 0;
    for (int index = 0; index < 8; ++index) {
        std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
        int64_t size = 0;
        char unit = 0;
        if (!(file >> size >> unit)) break;
        largest = std::max(largest, size * (unit == 'M' ? 1 << 20 : 1 << 10));
    }
    return largest;
}

#endif

}  // namespace chatglm
