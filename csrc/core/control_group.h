// Limits that Linux sets to the processes of a container or service: the files of its control groups.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace chatglm {

// Folders of the control groups that this process is in for `controller` ("memory", "cpu"), the innermost
// first, then those around it; of version 2, and behind them of version 1. `root` is "" for the real system.
std::vector<std::string> control_groups(const std::string& root, const std::string& controller);

// The whole numbers at the beginning of a file; none where it is missing or says "max".
std::vector<int64_t> read_numbers(const std::string& path);

// The number behind `key` in a file of lines "key number"; nothing when there is none.
std::optional<int64_t> read_number_of(const std::string& path, const std::string& key);

}  // namespace chatglm
