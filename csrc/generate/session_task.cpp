#include "generate/session_task.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <utility>

#include "chatglm/error.h"
#include "generate/fingerprint.h"
#include "model/memory_need.h"

namespace chatglm {
namespace {

// A sequence of an engine's cache that another thread may read or fill while the engine goes on.
class HeldSequence {
  public:
    // `make` returns the sequence; called by the engine's thread.
    HeldSequence(Engine& engine, const std::function<KvCache::SequenceId(BatchLoop&)>& make)
        : engine_(engine) {
        engine_.run([&](BatchLoop& loop, const auto&) {
            sequence_ = make(loop);
            const auto pages = loop.cache().pages(sequence_);
            pages_.assign(pages.begin(), pages.end());
            page_bytes_ = loop.cache().layout().page_bytes();
        });
    }
    ~HeldSequence() {
        try {
            engine_.run([&](BatchLoop& loop, const auto&) { loop.let_go(sequence_); });
        } catch (const std::exception&) {  // the engine was stopped, and its cache is of no use any more
        }
    }
    HeldSequence(const HeldSequence&) = delete;
    HeldSequence& operator=(const HeldSequence&) = delete;

    std::vector<std::span<uint8_t>> pages() const {
        std::vector<std::span<uint8_t>> spans;
        for (uint8_t* const page : pages_) spans.emplace_back(page, page_bytes_);
        return spans;
    }
    KvCache::SequenceId id() const { return sequence_; }

  private:
    Engine& engine_;
    KvCache::SequenceId sequence_ = 0;
    std::vector<uint8_t*> pages_;
    size_t page_bytes_ = 0;
};

std::vector<SessionHeader::Adapter> adapters_of(const LoraChoice& loras) {
    std::vector<SessionHeader::Adapter> adapters;
    for (size_t i = 0; i < loras.named.size(); ++i) {
        const Lora& lora = loras.named[i];
        if (lora.scale == 0.0f) continue;
        const std::filesystem::path path(std::u8string(lora.path.begin(), lora.path.end()));
        const std::u8string name = path.filename().u8string();
        adapters.push_back({std::string(name.begin(), name.end()),
                            fingerprint(loras.opened[i].adapter->file()), double{lora.scale}});
    }
    return adapters;
}

std::string names_of(const std::vector<SessionHeader::Adapter>& adapters) {
    std::string names;
    for (const auto& adapter : adapters) {
        names += (names.empty() ? "'" : ", '") + adapter.name + "' at " + std::to_string(adapter.scale);
    }
    return names.empty() ? "none" : names;
}

SessionHeader header_of(const SessionContext& context) {
    SessionHeader header;
    header.model = context.config.name;
    header.model_fingerprint = fingerprint(context.file);
    header.kv_dtype = context.kv_dtype;
    header.engine = std::string(CHATGLM_VERSION) + " " + context.isa;
    header.adapters = adapters_of(*context.loras);
    return header;
}

void check_same(const SessionHeader& saved, const SessionHeader& ours, const std::string& path) {
    const std::string begin = "The session '" + path + "' was saved with ";
    const std::string end = " Its text can be had without: read_session.";
    if (saved.model_fingerprint != ours.model_fingerprint) {
        throw InvalidArgument(begin + "another model file, of '" + saved.model + "'; this one is of '" +
                              ours.model + "'. Load that file." + end);
    }
    if (saved.kv_dtype != ours.kv_dtype) {
        throw InvalidArgument(begin + "a cache of " + saved.kv_dtype + "; this one is " + ours.kv_dtype +
                              ". Set kv_dtype to " + saved.kv_dtype + "." + end);
    }
    if (saved.adapters != ours.adapters) {
        throw InvalidArgument(begin + "other LoRA adapters: " + names_of(saved.adapters) + "; in use are " +
                              names_of(ours.adapters) + ". Set the same ones, in the same order." + end);
    }
}

}  // namespace

int save_session(const SessionContext& context, const std::string& path, const Session& session,
                 std::span<const int32_t> ids) {
    SessionHeader header = header_of(context);
    header.messages = session.messages;
    header.tools = session.tools;
    int n_tokens = 0;
    const HeldSequence known(context.engine, [&](BatchLoop& loop) {
        const auto [sequence, n] = loop.share_known_pages(ids, context.loras);
        n_tokens = n;
        return sequence;
    });
    header.ids.assign(ids.begin(), ids.begin() + n_tokens);
    const auto pages = known.pages();
    write_session(path, header, std::vector<std::span<const uint8_t>>(pages.begin(), pages.end()),
                  context.interrupted);
    return n_tokens;
}

Session load_session(const SessionContext& context, const std::string& path) {
    SessionReader reader(path);
    const SessionHeader& header = reader.header();
    const SessionHeader ours = header_of(context);
    check_same(header, ours, path);
    Session session{header.messages, header.tools, header.model, 0};
    const ModelConfig& config = context.config;
    for (const int32_t id : header.ids) {
        if (id >= config.vocab_size) reader.fail("a token is outside the vocabulary");
    }
    if (header.ids.size() > static_cast<size_t>(config.max_length)) {
        reader.fail("it has more tokens than the model's context");
    }
    const std::span<const int32_t> ids(header.ids);
    const bool usable = header.engine == ours.engine && config.positions == PositionKind::causal;
    const HeldSequence room(context.engine, [&](BatchLoop& loop) {
        const KvLayout& layout = loop.cache().layout();
        const size_t n_slots = ids.empty() ? 0 : static_cast<size_t>(config.prefix_length) + ids.size();
        const auto page_size = static_cast<size_t>(layout.page_size);
        if (n_slots % page_size != 0 || reader.page_bytes() != n_slots / page_size * layout.page_bytes()) {
            reader.fail("it has not as many pages as tokens");
        }
        const int n_pages = usable ? static_cast<int>(n_slots / page_size) : 0;
        check_cache_memory(layout, n_pages * layout.page_size, memory_state());
        return loop.new_pages(n_pages);
    });
    const auto pages = room.pages();
    for (const auto page : pages) {
        if (context.interrupted && context.interrupted()) throw Interrupted();
        reader.read(page);
    }
    reader.finish(context.interrupted);
    context.engine.run([&](BatchLoop& loop, const auto&) {
        const int n_slots = static_cast<int>(pages.size()) * loop.cache().layout().page_size;
        const int n_tokens = std::max(0, n_slots - config.prefix_length);
        loop.keep(room.id(), ids.first(static_cast<size_t>(n_tokens)), context.loras);
        session.cached_tokens = n_tokens;
    });
    return session;
}

}  // namespace chatglm
