#include "core/memory.h"

#include <doctest/doctest.h>

#include "core/fake_system.h"

using namespace chatglm;
using test::FakeSystem;

namespace {

constexpr int64_t kMega = int64_t{1} << 20;

const char* const kMachine =  // 16 GiB, of which 10 GiB could be used, and 2 GiB of swap
    "MemTotal:       16777216 kB\n"
    "MemFree:          100000 kB\n"
    "MemAvailable:   10485760 kB\n"
    "SwapTotal:       2097152 kB\n";

}  // namespace

TEST_CASE("a machine's memory is what /proc/meminfo says") {
    FakeSystem system;
    system.put("proc/meminfo", kMachine);
    const MemoryState state = linux_memory_state(system.root());
    CHECK(state.total == 16384 * kMega);
    CHECK(state.available == 10240 * kMega);
    CHECK(state.fatal == 18432 * kMega);
}

TEST_CASE("nothing is known where nothing is said") {
    const MemoryState state = linux_memory_state(FakeSystem().root());
    CHECK(state.total == 0);
    CHECK(state.available == 0);
    CHECK(state.fatal == 0);
}

TEST_CASE("a container's limit counts, and pages of files in it give way") {
    FakeSystem system;
    system.put("proc/meminfo", kMachine).put("proc/self/cgroup", "0::/");
    system.put("sys/fs/cgroup/memory.max", std::to_string(4096 * kMega));
    system.put("sys/fs/cgroup/memory.current", std::to_string(3000 * kMega));
    system.put("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file " + std::to_string(1500 * kMega) +
                                                "\nactive_file " + std::to_string(500 * kMega));
    const MemoryState state = linux_memory_state(system.root());
    CHECK(state.total == 4096 * kMega);
    CHECK(state.available == 3096 * kMega);
    CHECK(state.fatal == 6144 * kMega);
}

TEST_CASE("the narrowest limit of all groups around the process counts") {
    FakeSystem system;
    system.put("proc/meminfo", kMachine).put("proc/self/cgroup", "0::/user/session");
    system.put("sys/fs/cgroup/user/session/memory.max", "max");
    system.put("sys/fs/cgroup/user/memory.max", std::to_string(2048 * kMega));
    system.put("sys/fs/cgroup/user/memory.current", std::to_string(2040 * kMega));
    CHECK(linux_memory_state(system.root()).total == 2048 * kMega);
    CHECK(linux_memory_state(system.root()).available == 8 * kMega);
}

TEST_CASE("a group of the first version limits, and one without a limit does not") {
    FakeSystem system;
    system.put("proc/meminfo", kMachine).put("proc/self/cgroup", "9:memory:/docker/1\n2:cpu:/docker/1");
    const std::string folder = "sys/fs/cgroup/memory/docker/1/";
    system.put(folder + "memory.limit_in_bytes", "9223372036854771712");
    CHECK(linux_memory_state(system.root()).total == 16384 * kMega);
    system.put(folder + "memory.limit_in_bytes", std::to_string(1024 * kMega));
    system.put(folder + "memory.usage_in_bytes", std::to_string(1024 * kMega));
    system.put(folder + "memory.stat", "total_inactive_file " + std::to_string(100 * kMega));
    CHECK(linux_memory_state(system.root()).total == 1024 * kMega);
    CHECK(linux_memory_state(system.root()).available == 100 * kMega);
}

TEST_CASE("the memory of this machine is known, and this process takes some of it") {
    const MemoryState state = memory_state();
    CHECK(state.total > 0);
    CHECK(state.available > 0);
    CHECK(state.available <= state.total);
    CHECK(resident_memory() > 0);
    CHECK(resident_memory() < state.total);
}
