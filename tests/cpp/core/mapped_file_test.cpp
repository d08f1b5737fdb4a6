#include "core/mapped_file.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "chatglm/error.h"

using namespace chatglm;

namespace {

// A file of a name in several scripts, as UTF-8.
class File {
  public:
    explicit File(const std::string& content)
        : path_(std::filesystem::temp_directory_path() / std::filesystem::path(u8"chatglm 模型 é😀.bin")) {
        std::ofstream(path_, std::ios::binary) << content;
    }
    ~File() {
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }
    std::string path() const {
        const std::u8string text = path_.u8string();
        return {text.begin(), text.end()};
    }

  private:
    std::filesystem::path path_;
};

std::string text(const MappedFile& file) {
    return {file.bytes().begin(), file.bytes().end()};
}

}  // namespace

TEST_CASE("a file with a name in any script is mapped and copied") {
    const File file("abc");
    CHECK(text(MappedFile(file.path())) == "abc");
    CHECK(text(MappedFile(file.path(), MappedFile::Mode::copy)) == "abc");
}

TEST_CASE("advice about any part of a file changes nothing that is read") {
    std::string content(200'000, 'x');
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7);
    const File path(content);
    for (const auto mode : {MappedFile::Mode::map, MappedFile::Mode::copy}) {
        const MappedFile file(path.path(), mode);
        for (const size_t begin : {0, 1, 4096, 70'001, 199'999}) {
            file.will_need(file.bytes().subspan(begin));
            file.release(file.bytes().subspan(begin));
        }
        file.will_need({});
        file.release({});
        CHECK(text(file) == content);
    }
}

TEST_CASE("an empty file is an empty span") {
    const File file("");
    CHECK(MappedFile(file.path()).bytes().empty());
    CHECK(MappedFile(file.path(), MappedFile::Mode::copy).bytes().empty());
}

TEST_CASE("what is no file is refused in a sentence") {
    CHECK_THROWS_WITH_AS(MappedFile("no such file 模型"), doctest::Contains("no such file 模型"), FileError);
    CHECK_THROWS_AS(MappedFile(std::filesystem::temp_directory_path().string()), FileError);
}
