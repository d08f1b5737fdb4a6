#include "chatglm/session.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "core/checksum.h"
#include "generate/reply_samples.h"
#include "generate/session_file.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::greedy;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

TinyModel chat_model() {
    TinyModel model;
    model.chat_template =
        "{% for m in messages %}{{ m.role[0] }}{{ m.content }}z{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}";
    return model;
}

const std::vector<ChatMessage> kTalk{{"user", std::string(150, 'q')}};

// A folder that holds one session, removed at the end.
struct Folder {
    Folder() {
        std::random_device random;
        path = std::filesystem::temp_directory_path() / ("session-test-" + std::to_string(random()));
        std::filesystem::create_directory(path);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string file() const { return (path / "a.session").string(); }
    auto n_files() const {
        return std::distance(std::filesystem::directory_iterator(path),
                             std::filesystem::directory_iterator{});
    }
    std::filesystem::path path;
};

std::string read_bytes(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

// Tokens of the prompt that were found in the cache, and the reply.
std::pair<int, std::vector<int32_t>> ask(Pipeline& pipeline, std::vector<ChatMessage> messages) {
    messages.push_back({"user", "further"});
    const auto reply = pipeline.start(pipeline.tokenizer().apply_chat_template(messages), greedy(12));
    std::vector<int32_t> ids;
    int32_t token = 0;
    while (!reply->done()) {
        if (reply->step(token)) ids.push_back(token);
    }
    return {reply->progress().cached_tokens, ids};
}

}  // namespace

TEST_CASE("a conversation goes on after a restart where it was, with the same bits") {
    const TemporaryFile model(chat_model().build());
    const Folder folder;
    auto messages = kTalk;
    std::vector<int32_t> expected;
    int n_saved = 0;
    {
        Pipeline pipeline(model.path());
        messages.push_back(pipeline.chat(messages, greedy(30)));
        n_saved = pipeline.save_session(folder.file(), messages);
        CHECK(n_saved >= 128);
        CHECK(n_saved % 64 == 0);
        CHECK(pipeline.stats().used_bytes == 0);
    }
    Pipeline cold(model.path());
    expected = ask(cold, messages).second;
    Pipeline pipeline(model.path());
    const Session session = pipeline.load_session(folder.file());
    CHECK(session.messages == messages);
    CHECK(session.cached_tokens == n_saved);
    CHECK(pipeline.stats().used_bytes == 0);
    CHECK(pipeline.stats().cached_bytes > 0);
    const auto [cached, reply] = ask(pipeline, session.messages);
    CHECK(cached >= n_saved);
    CHECK(reply == expected);
    CHECK(folder.n_files() == 1);

    SUBCASE("and once more from what was loaded") {
        CHECK(pipeline.save_session(folder.file(), messages) >= n_saved);
        CHECK(pipeline.load_session(folder.file()).messages == messages);
    }
    SUBCASE("in a cache with less room as far as there is room") {
        PipelineOptions options;
        options.cache_memory = 2 * 3 * 2 * 2 * 64 * 32 * 2;  // two pages
        Pipeline small(model.path(), options);
        CHECK(small.load_session(folder.file()).cached_tokens <= 128);
        CHECK(small.stats().used_bytes == 0);
    }
}

TEST_CASE("a session holds everything that messages have") {
    const Folder folder;
    std::vector<ChatMessage> messages{{"system", "你好\n\"\\"}, {"user", std::string("a\0b", 3)}};
    ChatMessage reply{"assistant", "text"};
    reply.tool_calls.push_back({"function", {"f", "{\"x\": 1}"}, {}, "call_1"});
    reply.tool_calls.push_back({"code", {}, {"print(1)"}, "call_2"});
    reply.reasoning_content = "hm";
    reply.tool_call_error = "none";
    messages.push_back(reply);
    SessionHeader header;
    header.messages = messages;
    header.tools = "[{\"name\": \"f\"}]";
    header.adapters = {{"poet.gguf", "0", 0.1f}};
    write_session(folder.file(), header, {}, nullptr);
    const Session session = read_session(folder.file());
    CHECK(session.messages == messages);
    CHECK(session.messages[2].tool_calls[1].id == "call_2");
    CHECK(session.tools == header.tools);
    CHECK(SessionReader(folder.file()).header().adapters == header.adapters);
}

TEST_CASE("a session of another model or cache is refused, and nothing changes") {
    const TemporaryFile model(chat_model().build());
    TinyModel other = chat_model();
    other.tied = true;
    const TemporaryFile other_file(other.build());
    const Folder folder;
    Pipeline pipeline(model.path());
    auto messages = kTalk;
    messages.push_back(pipeline.chat(messages, greedy(5)));
    pipeline.save_session(folder.file(), messages);
    Pipeline other_model(other_file.path());
    CHECK_THROWS_WITH_AS(other_model.load_session(folder.file()), doctest::Contains("another model file"),
                         InvalidArgument);
    PipelineOptions options;
    options.kv_dtype = "f32";
    Pipeline f32(model.path(), options);
    CHECK_THROWS_WITH_AS(f32.load_session(folder.file()), doctest::Contains("Set kv_dtype to f16"),
                         InvalidArgument);
    CHECK(f32.stats().cached_bytes == 0);
    CHECK(read_session(folder.file()).messages == messages);
}

TEST_CASE("saving that is interrupted or impossible leaves what was there") {
    const TemporaryFile model(chat_model().build());
    const Folder folder;
    Pipeline pipeline(model.path());
    auto messages = kTalk;
    messages.push_back(pipeline.chat(messages, greedy(5)));
    write_bytes(folder.file(), "before");
    int asked = 0;
    CHECK_THROWS_AS(pipeline.save_session(folder.file(), messages, {}, [&] { return ++asked > 1; }),
                    Interrupted);
    CHECK(read_bytes(folder.file()) == "before");
    CHECK(folder.n_files() == 1);
    CHECK_THROWS_WITH_AS(pipeline.save_session(folder.file() + "/x", messages), doctest::Contains("folder"),
                         FileError);
    CHECK_THROWS_WITH_AS(pipeline.save_session(folder.path.string(), messages), doctest::Contains("folder"),
                         FileError);
    CHECK_THROWS_AS(pipeline.save_session(folder.file(), {}), InvalidArgument);
    CHECK(pipeline.stats().used_bytes == 0);
}

TEST_CASE("damage anywhere is found, whatever it is") {
    const TemporaryFile model(chat_model().build());
    const Folder folder;
    Pipeline pipeline(model.path());
    auto messages = kTalk;
    messages.push_back(pipeline.chat(messages, greedy(5)));
    REQUIRE(pipeline.save_session(folder.file(), messages) > 0);
    const std::string whole = read_bytes(folder.file());
    Pipeline fresh(model.path());
    const auto refuses = [&](const std::string& bytes) {
        write_bytes(folder.file(), bytes);
        try {
            fresh.load_session(folder.file());
            return false;
        } catch (const FormatError&) {
            return true;
        }
    };
    std::mt19937 random(3);
    for (int i = 0; i < 150; ++i) {  // the beginning byte by byte, then anywhere
        std::string bytes = whole;
        const size_t at = i < 40 ? static_cast<size_t>(i) : random() % whole.size();
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        CAPTURE(at);
        CHECK(refuses(bytes));
        bytes = whole.substr(0, i < 40 ? static_cast<size_t>(i) : random() % whole.size());
        CHECK(refuses(bytes));
    }
    CHECK(refuses(whole + "x"));
    CHECK(refuses(std::string(100, '\0')));
    CHECK(fresh.stats().used_bytes == 0);
    CHECK(fresh.stats().cached_bytes == 0);

    SUBCASE("also of sizes beyond all bounds whose checksum is right") {
        for (const uint32_t header_bytes : {0u, 1u, 0x7fffffffu, 0xffffffffu}) {
            for (const uint64_t page_bytes : {uint64_t{0}, uint64_t{1} << 40, ~uint64_t{0}}) {
                std::string bytes = whole;
                std::memcpy(bytes.data() + 12, &header_bytes, sizeof header_bytes);
                std::memcpy(bytes.data() + 16, &page_bytes, sizeof page_bytes);
                Checksum sum;
                sum.add(bytes.data(), 24);
                const uint64_t value = sum.value();
                std::memcpy(bytes.data() + 24, &value, sizeof value);
                CHECK(refuses(bytes));
            }
        }
    }
    SUBCASE("also of a conversation that is none though its checksum is right") {
        uint32_t n = 0;
        std::memcpy(&n, whole.data() + 12, sizeof n);
        const std::string header = whole.substr(32, n);
        const auto with = [&](const std::string& text) {
            std::string bytes = whole.substr(0, 32) + text + whole.substr(32 + n);
            const auto length = static_cast<uint32_t>(text.size());
            std::memcpy(bytes.data() + 12, &length, sizeof length);
            Checksum sum;
            sum.add(bytes.data(), 24);
            sum.add(text.data(), text.size());
            const uint64_t value = sum.value();
            std::memcpy(bytes.data() + 24, &value, sizeof value);
            return bytes;
        };
        const auto replaced = [&](const std::string& from, const std::string& to) {
            std::string text = header;
            const size_t at = text.find(from);
            REQUIRE(at != std::string::npos);
            return with(text.replace(at, from.size(), to));
        };
        CHECK(!refuses(with(header)));
        CHECK(fresh.stats().cached_bytes > 0);
        fresh.clear_cache();
        // Pages that another program computed are left out.
        CHECK(!refuses(replaced("\"engine\": \"", "\"engine\": \"another ")));
        CHECK(fresh.stats().cached_bytes == 0);
        CHECK(refuses(with("")));
        CHECK(refuses(with("{}")));
        CHECK(refuses(with("[1, 2")));
        CHECK(refuses(with(std::string(100000, '['))));
        CHECK(refuses(replaced("\"ids\": [", "\"ids\": [1, ")));
        CHECK(refuses(replaced("\"ids\": [", "\"ids\": [-1, ")));
        CHECK(refuses(replaced("\"ids\": [", "\"ids\": [1e9, ")));
        CHECK(refuses(replaced("\"ids\": [", "\"ids\": [99999999999999999999, ")));
        CHECK(refuses(replaced("\"role\": \"user\"", "\"role\": 1")));
        CHECK(refuses(replaced("\"adapters\": []", "\"adapters\": [{}]")));
        CHECK(refuses(replaced("\"tools\": \"\"", "\"tools\": \"{}\"")));
        CHECK(fresh.stats().cached_bytes == 0);
    }
}

TEST_CASE("a checksum does not depend on how its bytes are cut") {
    std::string bytes;
    for (int i = 0; i < 100; ++i) bytes += static_cast<char>(i * 7);
    Checksum whole;
    whole.add(bytes.data(), bytes.size());
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
        Checksum parts;
        parts.add(bytes.data(), cut);
        parts.add(bytes.data() + cut, bytes.size() - cut);
        CHECK(parts.value() == whole.value());
        Checksum shorter;
        shorter.add(bytes.data(), cut);
        CHECK((shorter.value() == whole.value()) == (cut == bytes.size()));
    }
}
