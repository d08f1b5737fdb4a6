// Matrices whose stored type the engine does not compute with, in a type that it computes with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "format/gguf.h"

namespace chatglm {

class RepackedWeights {
  public:
    // `tensor` of `file`, a transcodable matrix, as a supported one whose data live as long as this object.
    // Throws FormatError when a scale is not finite, OutOfMemory.
    GgufTensor add(const GgufFile& file, const GgufTensor& tensor, ThreadPool& pool);

    // A sentence for the user about what was repacked; none when nothing was.
    std::vector<std::string> notes() const;

  private:
    std::vector<std::unique_ptr<uint8_t[]>> data_;
    int64_t bytes_ = 0;
    std::map<std::string, std::string> types_;  // stored type -> the type in memory
};

}  // namespace chatglm
