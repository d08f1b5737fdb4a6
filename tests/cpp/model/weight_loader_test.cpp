#include "model/weight_loader.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "format/gguf_builder.h"
#include "format/super_block_samples.h"

using namespace chatglm;

TEST_CASE("vectors and rows of types that are not computed with are widened to the same floats") {
    for (const SuperType type : test::kSuperTypes) {
        CAPTURE(std::string(super_type_info(type).name));
        constexpr int64_t kRows = 3, kCols = 512;
        const int64_t n_blocks = kRows * kCols / super_type_info(type).block_size;
        std::vector<uint8_t> data;
        for (int i = 0; i < n_blocks; ++i) {
            const auto block = test::sample_block(type, i);
            data.insert(data.end(), block.begin(), block.end());
        }
        std::vector<float> expected(kRows * kCols);
        dequantize_row(type, data.data(), expected.data(), kRows * kCols);

        test::Bytes b;
        b.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(2).put<uint64_t>(0);
        const auto number = static_cast<uint32_t>(type);
        b.text("v").put<uint32_t>(1).put<uint64_t>(kCols).put(number).put<uint64_t>(0);
        b.text("r").put<uint32_t>(2).put<uint64_t>(kCols).put<uint64_t>(kRows).put(number).put<uint64_t>(0);
        b.pad(32).data.append(data.begin(), data.end());
        const test::TemporaryFile path(b.data);

        const GgufFile file(path.path());
        const auto backend = make_cpu_backend(1);
        std::vector<Backend::Buffer> vectors;
        RepackedWeights repacked;
        WeightLoader load(file, *backend, vectors, repacked);
        const float* vector = load.vector("v", kCols);
        CHECK(std::vector<float>(vector, vector + kCols) ==
              std::vector<float>(expected.begin(), expected.begin() + kCols));
        const float* rows = load.rows("r", kRows, kCols);
        CHECK(std::vector<float>(rows, rows + kRows * kCols) == expected);
        CHECK(repacked.notes().empty());
    }
}
