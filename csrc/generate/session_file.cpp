#include "generate/session_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "chatglm/error.h"
#include "core/new_file.h"
#include "text/json.h"
#include "text/message_json.h"

namespace chatglm {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kVersion = 1;
// A million tokens and their text. Files are not trusted, and JSON takes many times its bytes in memory.
constexpr uint32_t kMostHeaderBytes = 32 << 20;

struct Prologue {
    std::array<char, 8> magic{'G', 'L', 'M', '-', 'S', 'E', 'S', 'S'};
    uint32_t version = kVersion;
    uint32_t header_bytes = 0;
    uint64_t page_bytes = 0;
    uint64_t checksum = 0;

    uint64_t checksum_with(const std::string& header) const {
        Checksum sum;
        sum.add(this, offsetof(Prologue, checksum));
        sum.add(header.data(), header.size());
        return sum.value();
    }
};
static_assert(sizeof(Prologue) == 32);

std::span<const uint8_t> bytes_of(const auto& object) {
    return {reinterpret_cast<const uint8_t*>(&object), sizeof object};
}

Json to_json(const SessionHeader& header) {
    Json::Array adapters, ids;
    for (const auto& adapter : header.adapters) {
        adapters.push_back(Json::Object{
            {"name", adapter.name}, {"fingerprint", adapter.fingerprint}, {"scale", adapter.scale}});
    }
    for (const int32_t id : header.ids) ids.emplace_back(int64_t{id});
    return Json::Object{{"messages", chatglm::to_json(header.messages)},
                        {"tools", header.tools},
                        {"model", header.model},
                        {"model_fingerprint", header.model_fingerprint},
                        {"kv_dtype", header.kv_dtype},
                        {"engine", header.engine},
                        {"adapters", std::move(adapters)},
                        {"ids", std::move(ids)}};
}

}  // namespace

void write_session(const std::string& path, const SessionHeader& header,
                   std::span<const std::span<const uint8_t>> pages,
                   const std::function<bool()>& interrupted) {
    const std::string text = to_json(header).dump();
    if (text.size() > kMostHeaderBytes) {
        throw InvalidArgument("The conversation takes " + std::to_string(text.size()) +
                              " bytes; a session can hold " + std::to_string(kMostHeaderBytes) + ".");
    }
    Prologue prologue;
    prologue.header_bytes = static_cast<uint32_t>(text.size());
    for (const auto page : pages) prologue.page_bytes += page.size();
    prologue.checksum = prologue.checksum_with(text);
    NewFile file(path);
    file.write(bytes_of(prologue));
    file.write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    Checksum sum;
    for (const auto page : pages) {
        if (interrupted && interrupted()) throw Interrupted();
        sum.add(page);
        file.write(page);
    }
    const uint64_t value = sum.value();
    file.write(bytes_of(value));
    file.commit();
}

SessionReader::SessionReader(const std::string& path) : path_(path) {
    const std::filesystem::path native(std::u8string(path.begin(), path.end()));
    std::error_code ignored;
    if (!std::filesystem::exists(native, ignored)) {
        throw FileError("There is no session '" + path + "'.", true);
    }
    if (!std::filesystem::is_regular_file(native, ignored)) {
        throw FileError("'" + path + "' is a folder or a device; name the file of a session.", false);
    }
    const uint64_t size = std::filesystem::file_size(native, ignored);
    in_.open(native, std::ios::binary);
    if (!in_) throw FileError("'" + path + "' cannot be read: that is not allowed.", false);

    Prologue prologue;
    const auto magic = prologue.magic;
    in_.read(reinterpret_cast<char*>(&prologue), sizeof prologue);
    if (static_cast<size_t>(in_.gcount()) < sizeof prologue.magic || prologue.magic != magic)
        throw FormatError("'" + path + "' is no session of a conversation.");
    if (!in_) fail("it ends in its first bytes");
    if (prologue.version != kVersion) {
        throw FormatError("'" + path + "' is a session of version " + std::to_string(prologue.version) +
                          ", and this program reads version " + std::to_string(kVersion) +
                          ". Use the version of the program that saved it.");
    }
    const uint64_t rest = size - sizeof prologue - sizeof(uint64_t);
    if (size < sizeof prologue + sizeof(uint64_t) || prologue.header_bytes > rest ||
        prologue.page_bytes != rest - prologue.header_bytes) {
        fail("its length is not what its first bytes say");
    }
    if (prologue.header_bytes > kMostHeaderBytes) fail("its conversation has too many bytes");
    std::string text(prologue.header_bytes, '\0');
    in_.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!in_) fail("it ends in its conversation");
    if (prologue.checksum != prologue.checksum_with(text)) fail("the checksum of its conversation differs");
    try {
        parse_header(text);
    } catch (const InvalidArgument& error) {
        const std::string sentence = error.what();
        fail(sentence.substr(0, sentence.find_last_not_of('.') + 1));
    }
    page_bytes_ = n_left_ = prologue.page_bytes;
}

void SessionReader::fail(const std::string& why) const {
    throw FormatError("The session '" + path_ + "' is damaged: " + why + ".");
}

void SessionReader::parse_header(const std::string& text) {
    const Json json = Json::parse(text);
    const auto string = [&](const Json& object, const char* key) {
        const Json* value = object.find(key);
        if (!value || !value->string()) fail(std::string("it has no text \"") + key + "\"");
        return *value->string();
    };
    const auto array = [&](const char* key) -> const Json::Array& {
        const Json* value = json.find(key);
        if (!value || !value->array()) fail(std::string("it has no list \"") + key + "\"");
        return *value->array();
    };
    SessionHeader& h = header_;
    const Json* messages = json.find("messages");
    if (!messages) fail("it has no messages");
    h.messages = messages_from_json(*messages);
    h.tools = string(json, "tools");
    if (!h.tools.empty() && !Json::parse(h.tools).array()) fail("its tools are no list");
    h.model = string(json, "model");
    h.model_fingerprint = string(json, "model_fingerprint");
    h.kv_dtype = string(json, "kv_dtype");
    h.engine = string(json, "engine");
    for (const Json& adapter : array("adapters")) {
        const Json* scale = adapter.find("scale");
        if (!scale || !scale->real()) fail("an adapter has no scale");
        h.adapters.push_back({string(adapter, "name"), string(adapter, "fingerprint"), *scale->real()});
    }
    for (const Json& id : array("ids")) {
        const int64_t* value = id.integer();
        if (!value || *value < 0 || *value > std::numeric_limits<int32_t>::max()) fail("a token has no id");
        h.ids.push_back(static_cast<int32_t>(*value));
    }
}

void SessionReader::read(std::span<uint8_t> bytes) {
    if (bytes.size() > n_left_) fail("it has fewer pages than tokens");
    in_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in_) fail("it ends in its pages");
    checksum_.add(bytes);
    n_left_ -= bytes.size();
}

void SessionReader::finish(const std::function<bool()>& interrupted) {
    std::vector<uint8_t> part(std::min(n_left_, uint64_t{1} << 20));
    while (n_left_ > 0) {
        if (interrupted && interrupted()) throw Interrupted();
        read(std::span(part).first(static_cast<size_t>(std::min<uint64_t>(n_left_, part.size()))));
    }
    uint64_t value = 0;
    in_.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!in_) fail("it ends before its checksum");
    if (value != checksum_.value()) fail("the checksum of its keys and values differs");
}

Session read_session(const std::string& path) {
    const SessionHeader header = SessionReader(path).header();
    return {header.messages, header.tools, header.model, static_cast<int>(header.ids.size())};
}

}  // namespace chatglm
