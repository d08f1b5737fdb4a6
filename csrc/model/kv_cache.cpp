#include "model/kv_cache.h"

#include <cstring>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {

DType cache_type(const std::string& name) {
    std::string known;
    for (const DType type : kCacheTypes) {
        const std::string known_name = dtype_info(type).name;
        if (name == known_name) return type;
        known += (known.empty() ? "'" : ", '") + known_name + "'";
    }
    throw InvalidArgument("kv_dtype, the type of the cache, is '" + name + "'; it can be one of " + known +
                          ".");
}

const KvCache::Sequence& KvCache::find(SequenceId sequence) const {
    const auto found = sequences_.find(sequence);
    if (found == sequences_.end()) {
        throw InvalidArgument("There is no cached sequence number " + std::to_string(sequence) + ".");
    }
    return found->second;
}

KvCache::Sequence& KvCache::find(SequenceId sequence) {
    return const_cast<Sequence&>(static_cast<const KvCache&>(*this).find(sequence));
}

KvCache::SequenceId KvCache::create() {
    const SequenceId id = next_id_++;
    sequences_[id];
    return id;
}

void KvCache::release(SequenceId sequence) {
    truncate(sequence, 0);
    sequences_.erase(sequence);
}

KvCache::SequenceId KvCache::fork(SequenceId sequence, int length) {
    if (length < 0 || length > find(sequence).length) {
        throw InvalidArgument("Cannot share " + std::to_string(length) + " slots of a sequence of " +
                              std::to_string(find(sequence).length) + ".");
    }
    return share(page_ids(sequence), length);
}

KvCache::SequenceId KvCache::share(std::span<const int> pages, int length) {
    const SequenceId id = create();
    Sequence& to = find(id);
    const auto whole = static_cast<size_t>(length / layout_.page_size);
    for (const int page : pages.first(whole)) {
        to.page_ids.push_back(page);
        to.page_pointers.push_back(pages_[static_cast<size_t>(page)].memory.get());
        add_reference(page);
    }
    to.length = static_cast<int>(whole) * layout_.page_size;
    if (to.length < length) {
        try {
            extend(id, length - to.length);
        } catch (...) {
            release(id);
            throw;
        }
        std::memcpy(to.page_pointers[whole], pages_[static_cast<size_t>(pages[whole])].memory.get(),
                    layout_.page_bytes());
    }
    return id;
}

int KvCache::length(SequenceId sequence) const {
    return find(sequence).length;
}

void KvCache::truncate(SequenceId sequence, int length) {
    Sequence& s = find(sequence);
    if (length < 0 || length > s.length) {
        throw InvalidArgument("Cannot cut a sequence of " + std::to_string(s.length) + " slots to " +
                              std::to_string(length) + ".");
    }
    s.length = length;
    const auto needed = static_cast<size_t>((length + layout_.page_size - 1) / layout_.page_size);
    while (s.page_ids.size() > needed) pop_page(s);
}

void KvCache::extend(SequenceId sequence, int count) {
    Sequence& s = find(sequence);
    const size_t had = s.page_ids.size();
    const int new_length = s.length + count;
    try {
        while (static_cast<int64_t>(s.page_ids.size()) * layout_.page_size < new_length) {
            const int page = take_page();
            s.page_ids.push_back(page);
            s.page_pointers.push_back(pages_[static_cast<size_t>(page)].memory.get());
        }
        const auto first = static_cast<size_t>(s.length / layout_.page_size);
        if (count > 0 && first < had && pages_[static_cast<size_t>(s.page_ids[first])].references > 1) {
            const int page = take_page();
            std::memcpy(pages_[static_cast<size_t>(page)].memory.get(), s.page_pointers[first],
                        layout_.page_bytes());
            give_back(s.page_ids[first]);
            s.page_ids[first] = page;
            s.page_pointers[first] = pages_[static_cast<size_t>(page)].memory.get();
        }
    } catch (...) {
        while (s.page_ids.size() > had) pop_page(s);
        throw;
    }
    s.length = new_length;
}

std::span<uint8_t* const> KvCache::pages(SequenceId sequence) const {
    return find(sequence).page_pointers;
}

std::span<const int> KvCache::page_ids(SequenceId sequence) const {
    return find(sequence).page_ids;
}

void KvCache::shrink(int64_t n_pages) {
    while (n_allocated_ > n_pages && !free_pages_.empty()) {
        const int page = free_pages_.back();
        empty_pages_.push_back(page);
        free_pages_.pop_back();
        pages_[static_cast<size_t>(page)].memory.reset();
        --n_allocated_;
    }
}

int KvCache::take_page() {
    if (free_pages_.empty()) {
        Backend::Buffer memory = backend_.allocate(layout_.page_bytes());
        if (empty_pages_.empty()) {
            pages_.push_back({});
            empty_pages_.push_back(static_cast<int>(pages_.size()) - 1);
        }
        const int page = empty_pages_.back();
        free_pages_.push_back(page);
        empty_pages_.pop_back();
        pages_[static_cast<size_t>(page)].memory = std::move(memory);
        ++n_allocated_;
    }
    const int page = free_pages_.back();
    free_pages_.pop_back();
    pages_[static_cast<size_t>(page)].references = 1;
    ++used_pages_;
    return page;
}

bool KvCache::idle(int page) const {
    const Page& p = pages_[static_cast<size_t>(page)];
    return p.kept && p.references == 1;
}

void KvCache::keep(int page) {
    add_reference(page);
    pages_[static_cast<size_t>(page)].kept = true;
}

void KvCache::drop(int page) {
    idle_pages_ -= idle(page);
    pages_[static_cast<size_t>(page)].kept = false;
    give_back(page);
}

void KvCache::add_reference(int page) {
    idle_pages_ -= idle(page);
    ++pages_[static_cast<size_t>(page)].references;
}

void KvCache::give_back(int page) {
    if (--pages_[static_cast<size_t>(page)].references > 0) {
        idle_pages_ += idle(page);
        return;
    }
    free_pages_.push_back(page);
    --used_pages_;
}

void KvCache::pop_page(Sequence& sequence) {
    give_back(sequence.page_ids.back());
    sequence.page_ids.pop_back();
    sequence.page_pointers.pop_back();
}

}  // namespace chatglm
