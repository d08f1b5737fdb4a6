#include "core/processors.h"

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "core/fake_system.h"

using namespace chatglm;
using test::FakeSystem;

namespace {

std::vector<int> first(int n) {
    std::vector<int> processors(static_cast<size_t>(n));
    std::iota(processors.begin(), processors.end(), 0);
    return processors;
}

int apple_cores(const FakeSystem& system) {
    return count_apple_cores([&](const std::string& name) { return system.sysctl(name); });
}

}  // namespace

TEST_CASE("threads of one core count once, and only those that the process may use") {
    FakeSystem system;
    for (int i = 0; i < 8; ++i) system.processor(i, std::to_string(i % 4) + "," + std::to_string(i % 4 + 4));
    CHECK(count_linux_cores(system.root(), first(8)) == 4);
    CHECK(count_linux_cores(system.root(), {0, 4, 5}) == 2);
    CHECK(count_linux_cores(system.root(), {}) == 1);
}

TEST_CASE("a system that says nothing about its processors has as many cores as the process may use") {
    CHECK(count_linux_cores(FakeSystem().root(), {0, 1, 5}) == 3);
}

TEST_CASE("of an ARM chip the big cores count, by their capacity") {
    FakeSystem two_kinds;  // RK3588
    for (int i = 0; i < 4; ++i) two_kinds.processor(i, std::to_string(i), "414");
    for (int i = 4; i < 8; ++i) two_kinds.processor(i, std::to_string(i), "1024");
    CHECK(count_linux_cores(two_kinds.root(), first(8)) == 4);
    CHECK(count_linux_cores(two_kinds.root(), first(4)) == 4);  // only little ones allowed

    FakeSystem three_kinds;  // one prime, three big, four little
    for (int i = 0; i < 4; ++i) three_kinds.processor(i, std::to_string(i), "325");
    for (int i = 4; i < 7; ++i) three_kinds.processor(i, std::to_string(i), "828");
    three_kinds.processor(7, "7", "1024");
    CHECK(count_linux_cores(three_kinds.root(), first(8)) == 4);
}

TEST_CASE("of a hybrid Intel chip the performance cores count") {
    FakeSystem system;  // six P cores of two threads, eight E cores
    for (int i = 0; i < 12; i += 2) {
        const std::string siblings = std::to_string(i) + "-" + std::to_string(i + 1);
        system.processor(i, siblings).processor(i + 1, siblings);
    }
    for (int i = 12; i < 20; ++i) system.processor(i, std::to_string(i));
    CHECK(count_linux_cores(system.root(), first(20)) == 14);
    system.put("sys/devices/cpu_core/cpus", "0-11").put("sys/devices/cpu_atom/cpus", "12-19");
    CHECK(count_linux_cores(system.root(), first(20)) == 6);
    CHECK(count_linux_cores(system.root(), {0, 1, 2, 14, 15}) == 2);
    CHECK(count_linux_cores(system.root(), {13, 14, 15}) == 3);  // only E cores allowed
}

TEST_CASE("of Apple's chips the cores count that are not for efficiency") {
    CHECK(apple_cores(FakeSystem().level("Performance", 4).level("Efficiency", 4)) == 4);  // M1
    CHECK(apple_cores(FakeSystem().level("Super", 4).level("Efficiency", 6)) == 4);        // M5
    CHECK(apple_cores(FakeSystem().level("Super", 6).level("Performance", 12)) == 18);     // M5 Max
    FakeSystem three_kinds;
    three_kinds.level("Super", 2).level("Performance", 8).level("Efficiency", 4);
    CHECK(apple_cores(three_kinds) == 10);
    // Whatever the fastest kind is called, it counts, and a slower one of an unknown name does not.
    CHECK(apple_cores(FakeSystem().level("Ultra", 3).level("Frugal", 5)) == 3);
}

TEST_CASE("of Macs that say less about their cores all physical ones count") {
    FakeSystem intel;
    intel.answer("hw.physicalcpu", "6").answer("hw.logicalcpu", "12");
    CHECK(apple_cores(intel) == 6);
    FakeSystem first_of_macos_11;  // without names
    first_of_macos_11.answer("hw.perflevel0.physicalcpu", "4").answer("hw.physicalcpu", "8");
    CHECK(apple_cores(first_of_macos_11) == 4);
    CHECK(apple_cores(FakeSystem()) == 0);
    FakeSystem nonsense;
    nonsense.answer("hw.nperflevels", "99999999999").answer("hw.perflevel0.physicalcpu", "-3");
    CHECK(apple_cores(nonsense.answer("hw.physicalcpu", "many")) == 0);
}

TEST_CASE("files with nonsense are read as far as they make sense") {
    FakeSystem system;
    for (int i = 0; i < 4; ++i) system.processor(i, std::to_string(i), "many");
    system.put("sys/devices/cpu_core/cpus", "0-1,x");
    CHECK(count_linux_cores(system.root(), first(4)) == 2);
    system.put("sys/devices/cpu_core/cpus", "");
    CHECK(count_linux_cores(system.root(), first(4)) == 4);
    system.put("sys/devices/cpu_core/cpus", "0-2147483647");
    CHECK(count_linux_cores(system.root(), first(4)) == 4);
}

TEST_CASE("a container's share of processor time bounds the threads") {
    FakeSystem system;
    for (int i = 0; i < 16; ++i) system.processor(i, std::to_string(i));
    const auto count = [&] { return count_linux_cores(system.root(), first(16)); };
    system.put("proc/self/cgroup", "0::/").put("sys/fs/cgroup/cpu.max", "max 100000");
    CHECK(count() == 16);
    system.put("sys/fs/cgroup/cpu.max", "250000 100000");
    CHECK(count() == 3);
    system.put("sys/fs/cgroup/cpu.max", "10000 100000");
    CHECK(count() == 1);
    // Limits of the groups around it hold too.
    system.put("proc/self/cgroup", "0::/service/inner").put("sys/fs/cgroup/service/cpu.max", "200000 100000");
    system.put("sys/fs/cgroup/cpu.max", "max 100000")
        .put("sys/fs/cgroup/service/inner/cpu.max", "max 100000");
    CHECK(count() == 2);
}

TEST_CASE("control groups of the first version bound the threads too") {
    FakeSystem system;
    for (int i = 0; i < 16; ++i) system.processor(i, std::to_string(i));
    system.put("proc/self/cgroup", "12:memory:/docker/1\n3:cpu,cpuacct:/docker/1\nnonsense");
    system.put("sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "400000");
    system.put("sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000");
    CHECK(count_linux_cores(system.root(), first(16)) == 4);
    system.put("sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "-1");
    CHECK(count_linux_cores(system.root(), first(16)) == 16);
}

TEST_CASE("this machine has at least one core and no more than it has processors") {
    CHECK(default_thread_count() >= 1);
    CHECK(default_thread_count() <= 4096);
    prefer_fast_cores(1);
}
