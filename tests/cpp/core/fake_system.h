// A folder with files as Linux has them below /sys and /proc, which goes away with its owner; and what macOS
// answers to sysctl.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>

namespace chatglm::test {

class FakeSystem {
  public:
    FakeSystem() {
        static int counter = 0;
        root_ = std::filesystem::temp_directory_path() /
                ("chatglm_system_" + std::to_string(reinterpret_cast<uintptr_t>(this)) + "_" +
                 std::to_string(counter++));
        std::filesystem::create_directories(root_);
    }
    ~FakeSystem() {
        std::error_code ignored;
        std::filesystem::remove_all(root_, ignored);
    }
    FakeSystem(const FakeSystem&) = delete;
    FakeSystem& operator=(const FakeSystem&) = delete;

    std::string root() const { return root_.string(); }

    // `path` begins with "sys/" or "proc/".
    FakeSystem& put(const std::string& path, const std::string& content) {
        const auto file = root_ / path;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file, std::ios::binary) << content << "\n";
        return *this;
    }

    FakeSystem& processor(int number, const std::string& siblings, const std::string& capacity = "") {
        const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(number);
        put(folder + "/topology/thread_siblings_list", siblings);
        if (!capacity.empty()) put(folder + "/cpu_capacity", capacity);
        return *this;
    }

    FakeSystem& answer(const std::string& name, const std::string& value) {
        answers_[name] = value;
        return *this;
    }

    // A kind of cores, the next slower one.
    FakeSystem& level(const std::string& kind, int cores) {
        const std::string prefix = "hw.perflevel" + std::to_string(n_levels_++);
        answer("hw.nperflevels", std::to_string(n_levels_));
        return answer(prefix + ".name", kind).answer(prefix + ".physicalcpu", std::to_string(cores));
    }

    std::optional<std::string> sysctl(const std::string& name) const {
        const auto found = answers_.find(name);
        return found == answers_.end() ? std::nullopt : std::optional(found->second);
    }

  private:
    std::filesystem::path root_;
    std::map<std::string, std::string> answers_;
    int n_levels_ = 0;
};

}  // namespace chatglm::test
