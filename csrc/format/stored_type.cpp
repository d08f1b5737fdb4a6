#include "format/stored_type.h"

#include "format/dtype.h"
#include "format/super_blocks.h"

namespace chatglm {
namespace {

// What the engine neither computes with nor unpacks. ggml gave up 31-33 and 36-38, rearrangements of q4_0 and
// iq4_nl, and files of those are still about.
constexpr StoredType kTypes[] = {
    {9, "q8_1", 32, 36},        {15, "q8_K", 256, 292},     {16, "iq2_xxs", 256, 66},
    {17, "iq2_xs", 256, 74},    {18, "iq3_xxs", 256, 98},   {19, "iq1_s", 256, 50},
    {21, "iq3_s", 256, 110},    {22, "iq2_s", 256, 82},     {24, "i8", 1, 1},
    {25, "i16", 1, 2},          {26, "i32", 1, 4},          {27, "i64", 1, 8},
    {28, "f64", 1, 8},          {29, "iq1_m", 256, 56},     {31, "q4_0_4_4", 32, 18},
    {32, "q4_0_4_8", 32, 18},   {33, "q4_0_8_8", 32, 18},   {34, "tq1_0", 256, 54},
    {35, "tq2_0", 256, 66},     {36, "iq4_nl_4_4", 32, 18}, {37, "iq4_nl_4_8", 32, 18},
    {38, "iq4_nl_8_8", 32, 18}, {39, "mxfp4", 32, 17},      {40, "nvfp4", 64, 36},
    {41, "q1_0", 128, 18},      {42, "q2_0", 64, 18},
};

template <class Info>
StoredType stored(const Info& info) {
    return {static_cast<uint32_t>(info.type), info.name, info.block_size, info.block_bytes};
}

}  // namespace

std::optional<StoredType> find_stored_type(uint32_t number) {
    if (const DTypeInfo* info = find_dtype(number)) return stored(*info);
    if (const SuperTypeInfo* info = find_super_type(number)) return stored(*info);
    for (const StoredType& type : kTypes) {
        if (type.number == number) return type;
    }
    return std::nullopt;
}

}  // namespace chatglm
