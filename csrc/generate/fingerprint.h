// What tells one model file from another.
#pragma once

#include <string>

#include "format/gguf.h"

namespace chatglm {

// 16 hexadecimal digits from all metadata, the names, types and sizes of all tensors, and bytes from the
// beginning, the middle and the end of each: reading a whole model would take as long as computing a
// conversation. Another copy of the file has the same.
std::string fingerprint(const GgufFile& file);

}  // namespace chatglm
