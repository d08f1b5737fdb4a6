// A folder with files as Linux has them below /sys and /proc, which goes away with its owner.
#pragma once

#include <filesystem>
#include <fstream>
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

  private:
    std::filesystem::path root_;
};

}  // namespace chatglm::test
