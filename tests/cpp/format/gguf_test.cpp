#include "format/gguf.h"

#include <doctest/doctest.h>

#include "chatglm/error.h"
#include "format/gguf_builder.h"

using namespace chatglm;
using chatglm::test::Bytes;
using chatglm::test::TemporaryFile;

namespace {

// A good file: a value of every kind, a list of each kind, and two tensors.
std::string sample(uint32_t version = 3) {
    Bytes b;
    b.put<uint32_t>(0x46554747).put<uint32_t>(version).put<uint64_t>(2).put<uint64_t>(9);
    b.key("a.u8", GgufType::u8).put<uint8_t>(200);
    b.key("a.i64", GgufType::i64).put<int64_t>(-5);
    b.key("a.f32", GgufType::f32).put<float>(1.5f);
    b.key("a.bool", GgufType::boolean).put<uint8_t>(1);
    b.key("a.text", GgufType::string).text("你好");
    b.key("l.text", GgufType::array).put(uint32_t{8}).put<uint64_t>(2).text("x").text("");
    b.key("l.int", GgufType::array)
        .put(uint32_t{5})
        .put<uint64_t>(3)
        .put<int32_t>(1)
        .put<int32_t>(-2)
        .put<int32_t>(3);
    b.key("l.bytes", GgufType::array).put(uint32_t{0}).put<uint64_t>(2).put<uint8_t>(7).put<uint8_t>(8);
    b.key("general.alignment", GgufType::u32).put<uint32_t>(64);
    b.text("m").put<uint32_t>(2).put<uint64_t>(32).put<uint64_t>(2).put<uint32_t>(2).put<uint64_t>(0);
    b.text("v").put<uint32_t>(1).put<uint64_t>(3).put<uint32_t>(0).put<uint64_t>(64);
    b.pad(64);
    b.data.append(64, '\1');
    for (const float f : {1.0f, 2.0f, 3.0f}) b.put(f);
    return b.data;
}

std::string message_of(const std::string& content) {
    const TemporaryFile file(content);
    try {
        GgufFile opened(file.path());
    } catch (const FormatError& e) {
        return e.what();
    }
    return "";
}

}  // namespace

TEST_CASE("values, lists and tensors of a good file are read in place") {
    for (const uint32_t version : {2u, 3u}) {
        const TemporaryFile file(sample(version));
        const GgufFile gguf(file.path());
        CHECK(gguf.get_int("a.u8") == 200);
        CHECK(gguf.get_int("a.i64") == -5);
        CHECK(gguf.get_float("a.f32") == 1.5);
        CHECK(gguf.get_bool("a.bool", false));
        CHECK(gguf.get_string("a.text") == "你好");
        CHECK(gguf.get_strings("l.text") == std::vector<std::string_view>{"x", ""});
        CHECK(gguf.get_ints("l.int") == std::vector<int64_t>{1, -2, 3});
        CHECK(gguf.get_bytes("l.bytes").size() == 2);
        CHECK(gguf.get_strings("absent").empty());
        CHECK(gguf.get_int("absent", 7) == 7);
        REQUIRE(gguf.find_tensor("m"));
        CHECK(gguf.find_tensor("m")->shape == std::vector<int64_t>{2, 32});
        CHECK(gguf.find_tensor("m")->data.size() == 36);
        CHECK(gguf.find_tensor("v")->type == DType::f32);
        CHECK(gguf.find_tensor("none") == nullptr);
    }
}

TEST_CASE("a tensor whose memory was given back is read again, and so are its neighbours") {
    Bytes b;
    b.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(1).put<uint64_t>(0);
    b.text("t").put<uint32_t>(1).put<uint64_t>(50000).put(uint32_t{24}).put<uint64_t>(0).pad(32);
    for (int i = 0; i < 50000; ++i) b.put(static_cast<uint8_t>(i * 7 / 5));
    const TemporaryFile file(b.data);
    const GgufFile gguf(file.path());
    const auto data = gguf.find_tensor("t")->data;
    CHECK(gguf.find_tensor("t")->type_name == "i8");
    CHECK_FALSE(gguf.find_tensor("t")->supported);
    const std::vector<uint8_t> before(data.begin(), data.end());
    gguf.release(data);
    gguf.release(data.subspan(1, 10));
    gguf.release({});
    CHECK(std::vector<uint8_t>(data.begin(), data.end()) == before);
}

TEST_CASE("types that the engine cannot use are named, and checked as far as their size is known") {
    const auto file_of = [](uint32_t type, uint64_t elements, size_t bytes) {
        Bytes b;
        b.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(1).put<uint64_t>(0);
        b.text("t").put<uint32_t>(1).put(elements).put(type).put<uint64_t>(0).pad(32);
        b.data.append(bytes, '\1');
        return b.data;
    };
    CHECK(message_of(file_of(39, 64, 34)).empty());  // mxfp4: 17 bytes for 32
    CHECK(message_of(file_of(39, 64, 33)).find("cut short") != std::string::npos);
    CHECK(message_of(file_of(39, 65, 100)).find("mxfp4 blocks of 32") != std::string::npos);
    CHECK(message_of(file_of(12, 256, 143)).find("cut short") != std::string::npos);
    const TemporaryFile unknown(file_of(99, uint64_t{1} << 40, 0));
    const GgufFile gguf(unknown.path());
    CHECK(gguf.find_tensor("t")->type_name == "ggml type 99");
    CHECK(gguf.find_tensor("t")->data.empty());
}

TEST_CASE("a missing key or one of another kind is named") {
    const TemporaryFile file(sample());
    const GgufFile gguf(file.path());
    CHECK_THROWS_WITH_AS(gguf.get_int("nothing.here"), doctest::Contains("nothing.here"), FormatError);
    CHECK_THROWS_WITH_AS(gguf.get_int("a.text"), doctest::Contains("a.text"), FormatError);
    CHECK_THROWS_AS(gguf.get_string("a.u8"), FormatError);
    CHECK_THROWS_AS(gguf.get_strings("l.int"), FormatError);
    CHECK_THROWS_AS(gguf.get_ints("l.text"), FormatError);
    CHECK_THROWS_AS(gguf.get_bytes("l.int"), FormatError);
}

TEST_CASE("a file cut short anywhere ends in a sentence, never in a crash") {
    const std::string good = sample();
    for (size_t length = 0; length < good.size(); ++length) {
        CAPTURE(length);
        CHECK(!message_of(good.substr(0, length)).empty());
    }
    CHECK(message_of(good).empty());
}

TEST_CASE("a file with any one byte of its header changed is read or refused, never trusted") {
    const std::string good = sample();
    for (size_t i = 0; i + 64 < good.size(); ++i) {
        for (const int value : {0x00, 0x7f, 0x80, 0xff}) {
            std::string bad = good;
            bad[i] = static_cast<char>(value);
            const TemporaryFile file(bad);
            try {
                const GgufFile gguf(file.path());
                for (const auto& [key, entry] : gguf.metadata()) {
                    if (entry.type == GgufType::array && entry.element_type == GgufType::string)
                        gguf.get_strings(key);
                }
                for (const auto& tensor : gguf.tensors()) {
                    unsigned sum = 0;
                    for (const uint8_t byte : tensor.data) sum += byte;
                    CHECK(sum < 256u * (tensor.data.size() + 1));
                }
            } catch (const Error& e) {
                CHECK(std::string(e.what()).size() > 20);
            }
        }
    }
}

TEST_CASE("huge counts, repeated names and unknown types are refused") {
    Bytes many;
    many.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(uint64_t{1} << 60).put<uint64_t>(0);
    CHECK(message_of(many.data).find("tensors") != std::string::npos);

    Bytes twice;
    twice.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(0).put<uint64_t>(2);
    twice.key("k", GgufType::u8).put<uint8_t>(1).key("k", GgufType::u8).put<uint8_t>(2).pad(32);
    CHECK(message_of(twice.data).find("twice") != std::string::npos);

    Bytes huge_list;
    huge_list.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(0).put<uint64_t>(1);
    huge_list.key("k", GgufType::array).put(uint32_t{10}).put<uint64_t>(uint64_t{1} << 61).pad(32);
    CHECK(message_of(huge_list.data).find("ends inside") != std::string::npos);

    Bytes overflow;
    overflow.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(1).put<uint64_t>(0);
    overflow.text("t").put<uint32_t>(3);
    for (int i = 0; i < 3; ++i) overflow.put<uint64_t>(uint64_t{1} << 39);
    overflow.put<uint32_t>(0).put<uint64_t>(0).pad(32);
    CHECK(message_of(overflow.data).find("overflows") != std::string::npos);

    Bytes crowd;  // each of these tensors would be as good as the next one
    crowd.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(200000).put<uint64_t>(0);
    crowd.data.append(200000 * 40, '\0');
    CHECK(message_of(crowd.data).find("200000 tensors") != std::string::npos);

    Bytes reversed;
    reversed.put<uint32_t>(0x46554747).put<uint32_t>(3u << 24).put<uint64_t>(0).put<uint64_t>(0);
    CHECK(message_of(reversed.data).find("big-endian") != std::string::npos);

    CHECK(message_of("").find("not a GGUF file") != std::string::npos);
    CHECK(message_of(std::string(100, 'x')).find("not a GGUF file") != std::string::npos);
    CHECK(message_of("ggml" + std::string(100, '\0')).find("chatglm_cpp.convert -i") != std::string::npos);
}

TEST_CASE("a file that is absent or a folder is said to be so") {
    CHECK_THROWS_WITH_AS(GgufFile("/no/such/model.gguf"), doctest::Contains("no such file"), FileError);
    CHECK_THROWS_AS(GgufFile(std::filesystem::temp_directory_path().string()), FileError);
}
