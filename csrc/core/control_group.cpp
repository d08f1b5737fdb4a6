#include "core/control_group.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace chatglm {
namespace {

// "a/b" of "a/b/c"; the empty text of "a" and of nothing.
std::string parent_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
}

bool names(const std::string& list, const std::string& item) {
    std::istringstream items(list);
    for (std::string name; std::getline(items, name, ',');) {
        if (name == item) return true;
    }
    return false;
}

}  // namespace

std::vector<std::string> control_groups(const std::string& root, const std::string& controller) {
    // Lines "0::/path" of version 2, "4:memory:/path" or "5:cpu,cpuacct:/path" of version 1.
    std::vector<std::string> second, first;
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t colon = line.find(':'), path_colon = line.find(':', colon + 1);
        if (colon == std::string::npos || path_colon == std::string::npos) continue;
        const std::string controllers = line.substr(colon + 1, path_colon - colon - 1);
        const bool is_second = controllers.empty();
        if (!is_second && !names(controllers, controller)) continue;
        const std::string mount = root + "/sys/fs/cgroup" + (is_second ? "" : "/" + controller);
        auto& folders = is_second ? second : first;
        // A container that sees only its own groups may still be told its path outside: folders that are not
        // there have no files to read, and the mount's own comes last.
        for (std::string path = line.substr(path_colon + 1); path.size() > 1; path = parent_of(path)) {
            folders.push_back(mount + path);
        }
        folders.push_back(mount);
    }
    second.insert(second.end(), first.begin(), first.end());
    return second;
}

std::vector<int64_t> read_numbers(const std::string& path) {
    std::ifstream file(path);
    std::vector<int64_t> numbers;
    for (int64_t number = 0; file >> number;) numbers.push_back(number);
    return numbers;
}

std::optional<int64_t> read_number_of(const std::string& path, const std::string& key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string name;
        int64_t number = 0;
        if (words >> name >> number && name == key) return number;
    }
    return std::nullopt;
}

}  // namespace chatglm
