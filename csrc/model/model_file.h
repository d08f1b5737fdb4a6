// The GGUF file of a model, and sentences for the files that are something else.
#pragma once

#include <string>

#include "format/gguf.h"

namespace chatglm {

// Throws as GgufFile, and FormatError when the file holds no model that this program runs.
GgufFile open_model_file(const std::string& path);

// Throws FormatError when the file holds an adapter, a projector, a part of a model, a model of another
// architecture, or one that differs in a way that its tensors do not show.
void check_is_model(const GgufFile& file);

}  // namespace chatglm
